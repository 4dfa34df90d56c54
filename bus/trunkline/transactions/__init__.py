"""Transactions: several records and offsets that become visible together or not at all.

Two halves. In each partition, :mod:`~trunkline.transactions.in_log` knows which transactions are open and which were
aborted; that is what readers are kept from. Above them, :mod:`~trunkline.transactions.coordinator` decides how each
transaction ends and sees to it that every partition learns of it, through any crash.
"""

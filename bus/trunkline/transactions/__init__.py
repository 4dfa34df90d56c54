"""Transactions: several records and offsets that become visible together or not at all.

Two halves. In each partition, :mod:`~trunkline.transactions.in_log` knows which transactions are open and which were
aborted; that is what readers are kept from. Above them, :mod:`~trunkline.transactions.coordinator` decides how each
transaction ends and sees to it that every partition learns of it, through any crash.

    state, stored       one transactional id: how each request changes it; how it is stored
    coordinator, driver all of them, and what moves them along
    in_log, aborted     what a partition knows of open and of aborted transactions
    held_back           shows followers what an open transaction had kept from them
    statistics          what is counted
"""

"""The native protocol, ``trunkline://``: the door, and in :mod:`trunkline_native.client` the client.

The wire format is in ``docs/protocol-native.md``. Imports point inward: ``serve`` -> ``connection`` ->
``streams``, ``control`` -> ``codec`` -> ``frames``. The client shares only ``codec`` and ``frames`` with the door.
"""

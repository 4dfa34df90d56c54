"""Transactions as they are stored, in the internal topic ``__transactions``.

::

    key      u8   kind = 1
             ...  the transactional id (UTF-8)

    value    u8   version = 1
             ...  MessagePack: an array of the fields of :class:`~trunkline.transactions.state.Transaction` but the
                  first, in order; a partition is [topic, number], an identity [producer id, epoch] or nil

A tombstone forgets the transactional id.
"""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.transactions.state import Transaction

__all__ = ["STATE_TOPIC", "decode_key", "decode_transaction", "encode_key", "encode_transaction"]

STATE_TOPIC: Final = "__transactions"
_KIND: Final = 1
_VERSION: Final = 1

_encoder = msgspec.msgpack.Encoder()


def encode_key(transactional_id: str) -> bytes:
    return bytes([_KIND]) + transactional_id.encode()


def decode_key(key: bytes) -> str:
    """Raises ValueError for a kind of key that this broker does not know."""
    if key[:1] != bytes([_KIND]):
        raise ValueError(f"a key of kind {key[0]}; this broker knows kind {_KIND}")
    return key[1:].decode()


def encode_transaction(transaction: Transaction) -> bytes:
    return bytes([_VERSION]) + _encoder.encode(msgspec.structs.astuple(transaction)[1:])


def decode_transaction(transactional_id: str, value: bytes) -> Transaction:
    """Raises ValueError for a version that this broker does not know, or what is not a transaction."""
    if value[:1] != bytes([_VERSION]):
        raise ValueError(f"a transaction of version {value[:1].hex()}; this broker knows version {_VERSION}")
    return msgspec.convert([transactional_id, *msgspec.msgpack.decode(value[1:])], Transaction)

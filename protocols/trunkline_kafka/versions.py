"""ApiVersions: what a client asks before anything else.

Beside the versions of requests it tells the level of a feature that no version of a request shows: that transactions
go by their second protocol (KIP-890). Clients that know it then leave out AddPartitionsToTxn and AddOffsetsToTxn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from trunkline_kafka.apis import API_VERSIONS, APIS
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import WAITS, Exchange
from trunkline_kafka.messages.api_versions import (
    ApiVersion,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)

__all__ = ["api_versions"]

_TRANSACTIONS: Final = "transaction.version"
_TRANSACTIONS_LEVEL: Final = 2
_ZERO_FROM: Final = 4  # clients that ask with less cannot read a feature whose lowest level is 0 (KAFKA-17011)


def api_versions(offered: Sequence[int], exchange: Exchange) -> Any:
    """The keys that have handlers. A version of the request itself that is not known is answered as version 0."""
    if exchange.request is not None:
        keys = [ApiVersion(key, APIS[key].offered, APIS[key].last) for key in sorted(offered)]
        supported = [SupportedFeatureKey(_TRANSACTIONS, 0, _TRANSACTIONS_LEVEL)]
        return ApiVersionsResponse(
            api_keys=keys,
            supported_features=supported if exchange.version >= _ZERO_FROM else (),
            finalized_features_epoch=0,  # it never changes
            finalized_features=[FinalizedFeatureKey(_TRANSACTIONS, _TRANSACTIONS_LEVEL, _TRANSACTIONS_LEVEL)],
        )
    own = APIS[API_VERSIONS]
    only = [ApiVersion(own.key, own.offered, own.last)]
    exchange.answer(ApiVersionsResponse(ErrorCode.UNSUPPORTED_VERSION, only), version=0)
    return WAITS

"""ApiVersions: what a client asks before anything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trunkline_kafka.apis import API_VERSIONS, APIS
from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import WAITS, Exchange
from trunkline_kafka.messages.api_versions import ApiVersion, ApiVersionsResponse

__all__ = ["api_versions"]


def api_versions(offered: Sequence[int], exchange: Exchange) -> Any:
    """The keys that have handlers. A version of the request itself that is not known is answered as version 0."""
    if exchange.request is not None:
        keys = [ApiVersion(key, APIS[key].offered, APIS[key].last) for key in sorted(offered)]
        return ApiVersionsResponse(api_keys=keys)
    own = APIS[API_VERSIONS]
    only = [ApiVersion(own.key, own.offered, own.last)]
    exchange.answer(ApiVersionsResponse(ErrorCode.UNSUPPORTED_VERSION, only), version=0)
    return WAITS

"""DescribeAcls, CreateAcls, DeleteAcls: answered as by a Kafka broker that has no authorizer."""

from __future__ import annotations

from typing import Final

from trunkline_kafka.error_codes import ErrorCode
from trunkline_kafka.exchange import Exchange
from trunkline_kafka.messages.create_acls import AclCreationResult, CreateAclsRequest, CreateAclsResponse
from trunkline_kafka.messages.delete_acls import DeleteAclsFilterResult, DeleteAclsRequest, DeleteAclsResponse
from trunkline_kafka.messages.describe_acls import DescribeAclsResponse

__all__ = ["create_acls", "delete_acls", "describe_acls"]

_REASON: Final = "there are no access control lists here: who can connect may do everything"


def describe_acls(exchange: Exchange) -> DescribeAclsResponse:
    """There are none, and cannot be any."""
    return DescribeAclsResponse(error_code=ErrorCode.SECURITY_DISABLED, error_message=_REASON)


def create_acls(exchange: Exchange) -> CreateAclsResponse:
    """Refused, each of them."""
    request: CreateAclsRequest = exchange.request
    refused = AclCreationResult(ErrorCode.SECURITY_DISABLED, _REASON)
    return CreateAclsResponse(results=[refused] * len(request.creations))


def delete_acls(exchange: Exchange) -> DeleteAclsResponse:
    """Refused, each of them."""
    request: DeleteAclsRequest = exchange.request
    refused = DeleteAclsFilterResult(ErrorCode.SECURITY_DISABLED, _REASON)
    return DeleteAclsResponse(filter_results=[refused] * len(request.filters))

"""Errors about the size limit of messages."""

import re

import grpc
import grpc.aio

from skysail_common.errors import InvalidInput

# The first text is of the native transport, the second of gRPC Core.
_REFUSALS = (
    re.compile(r"message of \d+ bytes is larger than (\d+) bytes"),
    re.compile(r"SERVER: Received message larger than max \(\d+ vs\. (\d+)\)"),
)


def message_limit(error: grpc.aio.AioRpcError) -> int | None:
    """Return the size limit in bytes that a frontend names in an error; None for other errors."""
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        for refusal in _REFUSALS:
            if found := refusal.search(error.details() or ""):
                return int(found[1])
    return None


def message_too_large(num_bytes: int, max_bytes: int) -> InvalidInput:
    """Return the error for a query above the size limit of frontends."""
    return InvalidInput(
        f"the query is {num_bytes} bytes; the limit is {max_bytes}, which "
        "SKYSAIL_FRONTEND_MAX_MESSAGE_MIB sets for a frontend"
    )

"""What frontends say about the size of messages."""

import re

import grpc
import grpc.aio

from skysail_common.errors import InvalidInput

# The words of the native transport, and those of gRPC Core.
_REFUSALS = (
    re.compile(r"message of \d+ bytes is larger than (\d+) bytes"),
    re.compile(r"SERVER: Received message larger than max \(\d+ vs\. (\d+)\)"),
)


def message_limit(error: grpc.aio.AioRpcError) -> int | None:
    """Return the limit in bytes by which a frontend refused a message; None for other errors."""
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        for refusal in _REFUSALS:
            if found := refusal.search(error.details() or ""):
                return int(found[1])
    return None


def message_too_large(num_bytes: int, max_bytes: int) -> InvalidInput:
    """Return the error for a query that is larger than frontends take."""
    return InvalidInput(
        f"the query is {num_bytes} bytes; the limit is {max_bytes}, which "
        "SKYSAIL_FRONTEND_MAX_MESSAGE_MIB sets for a frontend"
    )

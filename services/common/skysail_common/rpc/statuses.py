"""The one place where errors become gRPC statuses, and statuses errors again."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import lru_cache
from math import ceil
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as StatusMessage

from skysail_common.errors import SkysailError, Status, error_of, without_frames
from skysail_common.rpc.contract import Call, Metadata

log = logging.getLogger(__name__)

REASON_KEY = "skysail-reason"
"""Trailing metadata that names the class of an error."""

_MAX_TEXT_BYTES = 5000
"""Bytes of an error's text as gRPC encodes it.

Clients accept 8 KiB of metadata by default and fail above it with RESOURCE_EXHAUSTED.
"""
_MAX_DETAIL_BYTES = 1000
"""Limit for the copy of a text in the details of a status, which travel in base64."""
_MAX_ENCODED = 12
"""Bytes of the longest character: four of UTF-8, of which each becomes `%XX`."""

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")


def as_skysail_error(error: Exception, method: str) -> SkysailError:
    """Return the error that the caller of `method` may see, and log it by whose fault it is.

    The error that was raised keeps no traceback.
    """
    if not isinstance(error, SkysailError):
        log.error("unhandled exception in RPC handler", exc_info=error, extra={"method": method})
        without_frames(error)
        return SkysailError("internal error")
    if error.status is Status.INTERNAL:
        log.error("call failed", extra={"method": method, "error": error.message})
    else:
        log.info(
            "call refused",
            extra={"method": method, "reason": type(error).__name__, "error": error.message},
        )
    return without_frames(error)


def handle(handler: Callable[[Call], ResultT], call: Call) -> ResultT | None:
    """Give a call to its handler and return what that returns; what it raises is the answer."""
    try:
        return handler(call)
    except SkysailError as error:
        # Not logged: refusing must cost as little as possible.
        call.fail(without_frames(error))
    except Exception as error:
        call.fail(as_skysail_error(error, call.method))
    return None


def code_of(error: SkysailError) -> grpc.StatusCode:
    """Return the gRPC code of an error."""
    return _CODES[error.status]


def text_of(error: SkysailError, max_bytes: int = _MAX_TEXT_BYTES) -> str:
    """Return the message of an error, cut to what fits the metadata of a call."""
    text = error.message
    if not text.isascii():
        # Half a surrogate pair, as of a file's name, cannot be sent.
        text = text.encode(errors="replace").decode()
    if len(text) * _MAX_ENCODED <= max_bytes:
        return text
    size = 0
    for index, character in enumerate(text):
        is_plain = " " <= character <= "~" and character != "%"
        size += 1 if is_plain else 3 * len(character.encode())
        if size > max_bytes:
            return f"{text[:index]} …"
    return text


def trailers_of(error: SkysailError) -> Metadata:
    """Return the trailing metadata of an error: its class, and of a shed query when to retry.

    A query for which a retry is useless has none of the latter.
    """
    reason = (REASON_KEY, type(error).__name__)
    backlog = error.backlog
    if backlog is None:
        return (reason,)
    facts = (
        reason,
        ("shed-reason", backlog.reason),
        ("queue-depth", str(backlog.num_rows)),
    )
    if backlog.wait_s is None:
        return facts
    wait_ms = max(1, ceil(backlog.wait_s * 1000))
    return (
        *facts,
        ("estimated-wait-ms", str(wait_ms)),
        ("retry-after-ms", str(wait_ms)),
        (
            "grpc-status-details-bin",
            _retry_details(error.status, text_of(error, _MAX_DETAIL_BYTES), wait_ms),
        ),
    )


@lru_cache(maxsize=1024)
def _retry_details(status: int, message: str, wait_ms: int) -> bytes:
    """Return a google.rpc.Status with RetryInfo, made once: refusing must cost little."""
    delay = Duration()
    delay.FromMilliseconds(wait_ms)
    detail = AnyMessage()
    detail.Pack(RetryInfo(retry_delay=delay))
    details = StatusMessage(code=status, message=message, details=[detail])
    return bytes(details.SerializeToString())


def is_named(error: grpc.aio.AioRpcError) -> bool:
    """Return whether a server of ours raised it, and no network or proxy in between."""
    return any(key == REASON_KEY for key, _ in error.trailing_metadata() or ())


def from_rpc_error(error: grpc.aio.AioRpcError) -> SkysailError:
    """Return the error that the server raised, of the same class."""
    reason = ""
    for key, value in error.trailing_metadata() or ():
        if key == REASON_KEY:
            reason = value.decode() if isinstance(value, bytes) else value
    return error_of(reason, error.code().value[0], error.details() or error.code().name.lower())


Told = Callable[[grpc.aio.AioRpcError], SkysailError]
"""Returns the error to raise for one of gRPC's."""


async def call(response: Awaitable[ResponseT], told: Told = from_rpc_error) -> ResponseT:
    """Await the response of a stub.

    Raises:
        SkysailError: what the server raised, of the same class, or what `told` makes of it.
    """
    try:
        return await response
    except grpc.aio.AioRpcError as error:
        # Nothing in gRPC's own says more, and it would be shown first.
        raise told(error) from None


async def stream(
    responses: "grpc.aio.UnaryStreamCall[Any, ResponseT]", told: Told = from_rpc_error
) -> AsyncIterator[ResponseT]:
    """Yield the responses of a stub; the call is cancelled when the iteration ends early.

    Raises:
        SkysailError: what the server raised, of the same class, or what `told` makes of it.
    """
    try:
        async for response in responses:
            yield response
    except grpc.aio.AioRpcError as error:
        raise told(error) from None
    finally:
        responses.cancel()


async def abort(
    context: "grpc.aio.ServicerContext[Any, Any]", error: SkysailError, trailers: Iterable[Any] = ()
) -> None:
    """End a call of grpc.aio with an error; never returns."""
    await context.abort(code_of(error), text_of(error), (*trailers_of(error), *trailers))

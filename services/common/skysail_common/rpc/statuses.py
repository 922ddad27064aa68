"""Translation between errors and gRPC statuses, for all servers and clients."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
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
"""Key of the trailing metadata with the class name of an error."""

_MAX_TEXT_BYTES = 5000
"""Largest text of an error in bytes, as gRPC encodes it.

Clients accept 8 KiB of metadata by default and fail above that with RESOURCE_EXHAUSTED.
"""
_MAX_DETAIL_BYTES = 1000
"""Largest copy of a text in the details of a status, which travel in base64."""
_MAX_ENCODED = 12
"""Bytes of the longest encoded character: four bytes of UTF-8, each as `%XX`."""

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")


def as_skysail_error(error: Exception, method: str) -> SkysailError:
    """Return the error that the caller of `method` may see, and log it at the level of its blame.

    The original error loses its traceback.
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
    """Call the handler of a call and return its result; its error becomes the answer."""
    try:
        return handler(call)
    except SkysailError as error:
        # The refusal is not logged, because it must be as cheap as possible.
        call.fail(without_frames(error))
    except Exception as error:
        call.fail(as_skysail_error(error, call.method))
    return None


def code_of(error: SkysailError) -> grpc.StatusCode:
    """Return the gRPC code of an error."""
    return _CODES[error.status]


def text_of(error: SkysailError, max_bytes: int = _MAX_TEXT_BYTES) -> str:
    """Return the message of an error, cut to the limit of the metadata of a call."""
    text = error.message
    if not text.isascii():
        # Half a surrogate pair, such as in a file name, cannot be encoded.
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
    """Return the trailing metadata of an error: its class, and the retry time of a shed query.

    The retry time is absent if a retry is useless.
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
    """Return a google.rpc.Status with RetryInfo; the cache keeps refusals cheap."""
    delay = Duration()
    delay.FromMilliseconds(wait_ms)
    detail = AnyMessage()
    detail.Pack(RetryInfo(retry_delay=delay))
    details = StatusMessage(code=status, message=message, details=[detail])
    return bytes(details.SerializeToString())


def is_named(error: grpc.aio.AioRpcError) -> bool:
    """Return whether a Skysail server raised the error, rather than the network or a proxy."""
    return any(key == REASON_KEY for key, _ in error.trailing_metadata() or ())


def from_rpc_error(error: grpc.aio.AioRpcError) -> SkysailError:
    """Return the error that the server raised, of the same class."""
    reason = ""
    for key, value in error.trailing_metadata() or ():
        if key == REASON_KEY:
            reason = value.decode() if isinstance(value, bytes) else value
    return error_of(reason, error.code().value[0], error.details() or error.code().name.lower())


Translation = Callable[[grpc.aio.AioRpcError], SkysailError]
"""A function that returns the `SkysailError` to raise for an error of gRPC."""


async def call(
    response: Awaitable[ResponseT], translate: Translation = from_rpc_error
) -> ResponseT:
    """Await the response of a stub.

    Raises:
        SkysailError: the error of the server, in the same class, or the result of `translate`.
    """
    try:
        return await response
    except grpc.aio.AioRpcError as error:
        # The error of gRPC adds no information, and tracebacks would show it first.
        raise translate(error) from None


async def stream(
    responses: "grpc.aio.UnaryStreamCall[Any, ResponseT]", translate: Translation = from_rpc_error
) -> AsyncGenerator[ResponseT, None]:
    """Yield the responses of a stub; an early end of the iteration cancels the call.

    Raises:
        SkysailError: the error of the server, in the same class, or the result of `translate`.
    """
    try:
        async for response in responses:
            yield response
    except grpc.aio.AioRpcError as error:
        raise translate(error) from None
    finally:
        responses.cancel()


async def abort(
    context: "grpc.aio.ServicerContext[Any, Any]", error: SkysailError, trailers: Iterable[Any] = ()
) -> None:
    """End a call of grpc.aio with an error; it raises and never returns."""
    await context.abort(code_of(error), text_of(error), (*trailers_of(error), *trailers))

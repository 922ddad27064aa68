"""Translation of servicers' errors to gRPC statuses, so that servicers need no `try`.

The interceptor also parses requests, because gRPC answers an invalid message with UNKNOWN and a
traceback.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from skysail_common.errors import InvalidInput
from skysail_common.rpc.statuses import abort, as_skysail_error

_Context = grpc.aio.ServicerContext[Any, Any]
_Read = Callable[[bytes], Any]

CheckRequest = Callable[[Message], None]
"""A check of a request before its servicer; it raises the error."""


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor that ends a failed call with the status and the class name of its error."""

    def __init__(self, check_request: CheckRequest | None = None) -> None:
        """Create the interceptor.

        Args:
            check_request: Check of each message of a caller; None for no check.
        """
        self._check_request = check_request

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a method with error translation; None for an unknown method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        kind = "stream" if handler.request_streaming else "unary"
        suffix = "stream" if handler.response_streaming else "unary"
        inner = getattr(handler, f"{kind}_{suffix}")
        read = self._reader(handler.request_deserializer, method)
        get = _all_of(read) if handler.request_streaming else read
        guard = _guard_stream if handler.response_streaming else _guard_unary
        make = getattr(grpc, f"{kind}_{suffix}_rpc_method_handler")
        # gRPC passes the bytes if it gets no deserializer, and the guard parses them.
        return make(guard(inner, get, method), None, handler.response_serializer)

    def _reader(self, deserialize: _Read | None, method: str) -> _Read:
        check = self._check_request

        def read(content: bytes) -> Any:
            if deserialize is None:
                return content
            try:
                request = deserialize(content)
            except DecodeError:
                raise InvalidInput(
                    f"cannot parse a request of {method}: it is not a protobuf message of its type"
                ) from None
            if check is not None:
                check(request)
            return request

        return read


def _all_of(read: _Read) -> Callable[[AsyncIterator[bytes]], AsyncIterator[Any]]:
    async def messages(contents: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for content in contents:
            yield read(content)

    return messages


def _guard_unary(
    inner: Any, get: Callable[[Any], Any], method: str
) -> Callable[[Any, _Context], Awaitable[Any]]:
    async def guarded(content: Any, context: _Context) -> Any:
        try:
            return await inner(get(content), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, as_skysail_error(error, method))

    return guarded


def _guard_stream(
    inner: Any, get: Callable[[Any], Any], method: str
) -> Callable[[Any, _Context], AsyncIterator[Any]]:
    async def guarded(content: Any, context: _Context) -> AsyncIterator[Any]:
        try:
            responses = inner(get(content), context)
            if hasattr(responses, "__aiter__"):
                async for response in responses:
                    yield response
            else:
                # Some servicers, such as Watch of health, are coroutines that write by the context.
                await responses
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, as_skysail_error(error, method))

    return guarded

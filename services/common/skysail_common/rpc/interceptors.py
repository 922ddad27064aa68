"""Servicers contain no `try`: what they raise becomes a status here."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from skysail_common.rpc.statuses import abort, as_skysail_error

_Context = grpc.aio.ServicerContext[Any, Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose servicer raised with the status and the name of the error."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, guarded; None for a method that is not served."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        kind = "stream" if handler.request_streaming else "unary"
        if handler.response_streaming:
            inner = getattr(handler, f"{kind}_stream")
            guarded: Any = _guard_stream(inner, method)
        else:
            inner = getattr(handler, f"{kind}_unary")
            guarded = _guard_unary(inner, method)
        suffix = "stream" if handler.response_streaming else "unary"
        make = getattr(grpc, f"{kind}_{suffix}_rpc_method_handler")
        return make(guarded, handler.request_deserializer, handler.response_serializer)


def _guard_unary(inner: Any, method: str) -> Callable[[Any, _Context], Awaitable[Any]]:
    async def guarded(request: Any, context: _Context) -> Any:
        try:
            return await inner(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, as_skysail_error(error, method))

    return guarded


def _guard_stream(inner: Any, method: str) -> Callable[[Any, _Context], AsyncIterator[Any]]:
    async def guarded(request: Any, context: _Context) -> AsyncIterator[Any]:
        try:
            responses = inner(request, context)
            if hasattr(responses, "__aiter__"):
                async for response in responses:
                    yield response
            else:
                # A coroutine that writes through the context, as health's Watch does.
                await responses
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, as_skysail_error(error, method))

    return guarded

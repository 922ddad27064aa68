"""The raw echo of grpc.aio, which does not parse messages."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from benchmarks.echo import STREAM, UNARY, serve_until_left


class _Handlers(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == UNARY:
            return grpc.unary_unary_rpc_method_handler(_unary)
        if handler_call_details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(_stream)
        return None


async def _unary(message: bytes, context: Any) -> bytes:
    return message


async def _stream(messages: AsyncIterator[bytes], context: Any) -> None:
    async for message in messages:
        await context.write(message)


async def _serve() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await serve_until_left(port)
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(_serve())

"""Servers and calls for the contract of the transports, with grpcio as the peer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.channels import open_channel
from skysail_common.rpc.contract import Call, Server, Stream, Transport

SERVICE = "skysail.test.Test"
UNARY = f"/{SERVICE}/Unary"
STREAM = f"/{SERVICE}/Stream"
LIMIT_BYTES = 4 * 1024 * 1024
WAIT_S = 10.0


@asynccontextmanager
async def serving(
    transport: Transport,
    unary: Callable[[Call], None] | None = None,
    stream: Callable[[Stream], Awaitable[None]] | None = None,
    address: str = "127.0.0.1:0",
    certificates: ServerCertificates | None = None,
) -> AsyncIterator[tuple[Server, str]]:
    """Serve the handlers; yield the server and its endpoint."""
    server = transport.server(
        [SERVICE],
        {UNARY: unary} if unary else {},
        {STREAM: stream} if stream else {},
        certificates=certificates,
    )
    port = server.bind(address)
    await server.start()
    try:
        yield server, address.replace(":0", f":{port}")
    finally:
        await server.stop(0.1)


@asynccontextmanager
async def calling(
    endpoint: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(endpoint, credentials=credentials) as channel:
        yield channel


def unary_call(channel: grpc.aio.Channel, path: str = UNARY) -> Any:
    return channel.unary_unary(path)


def echo(call: Call) -> None:
    call.reply(call.message)


async def echo_stream(stream: Stream) -> None:
    async for message in stream:
        await stream.send(message)


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, WAIT_S)
    return caught.value


def trailers_of(error: grpc.aio.AioRpcError) -> Mapping[str, Any]:
    return dict(error.trailing_metadata())  # type: ignore[arg-type]

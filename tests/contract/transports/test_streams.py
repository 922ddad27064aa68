"""Every transport serves bidirectional streams of a grpcio client in the same way."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from skysail_common.errors import Unavailable
from skysail_common.rpc.contract import Stream
from skysail_testing.transports import STREAM, WAIT_S, calling, echo_stream, failure, serving


async def test_messages_of_a_stream_come_in_order(transport):
    messages = [str(index).encode() * 10 for index in range(300)]

    async def asked() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    async with serving(transport, stream=echo_stream) as (_, endpoint):
        async with calling(endpoint) as channel:
            answers = [
                each async for each in channel.stream_stream(STREAM)(asked(), timeout=WAIT_S)
            ]
    assert answers == messages


async def test_a_large_message_passes_a_stream(transport):
    async with serving(transport, stream=echo_stream) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)(timeout=WAIT_S)
            await call.write(b"m" * 3_000_000)
            assert await call.read() == b"m" * 3_000_000
            call.cancel()


async def test_a_stream_is_accepted_before_its_first_message(transport):
    async def handler(stream: Stream) -> None:
        await stream.accept()
        await echo_stream(stream)

    async with serving(transport, stream=handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)(timeout=WAIT_S)
            await asyncio.wait_for(call.initial_metadata(), WAIT_S)
            await call.write(b"a")
            assert await call.read() == b"a"
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("is_accepted", [False, True])
async def test_a_stream_ends_with_the_error_of_its_handler(transport, is_accepted):
    async def handler(stream: Stream) -> None:
        if is_accepted:
            await stream.send(b"first")
        raise Unavailable("no more")

    async with serving(transport, stream=handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)(timeout=WAIT_S)
            if is_accepted:
                assert await call.read() == b"first"
            assert (await failure(call.read())).code() is grpc.StatusCode.UNAVAILABLE
            assert await call.details() == "no more"


async def test_a_cancelled_stream_ends_its_handler(transport):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handler(stream: Stream) -> None:
        begun.set()
        try:
            async for _ in stream:
                pass
        finally:
            ended.set()

    async with serving(transport, stream=handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)()
            await call.write(b"a")
            await asyncio.wait_for(begun.wait(), WAIT_S)
            call.cancel()
            await asyncio.wait_for(ended.wait(), WAIT_S)


async def test_sends_wait_for_a_slow_reader(transport):
    sent_bytes = 0

    async def handler(stream: Stream) -> None:
        nonlocal sent_bytes
        for _ in range(2000):
            await stream.send(b"s" * 50_000)
            sent_bytes += 50_000

    async with serving(transport, stream=handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)(timeout=60)
            await call.read()
            before = -1
            while before != sent_bytes:
                before = sent_bytes
                await asyncio.sleep(0.2)
            # The handler has 100 MB; kernel buffers may hold 30 MB of them.
            assert sent_bytes < 50_000_000
            call.cancel()

"""Streams of every kind, served to grpcio."""

import asyncio
import time

import grpc
import grpc.aio
import pytest
from harness import BIDI, REPEAT, SINK, Server, rss_bytes


def test_bidirectional(server: Server, channel: grpc.Channel) -> None:
    messages = [str(i).encode() for i in range(5000)]
    call = channel.stream_stream(BIDI)(iter(messages), timeout=30)
    assert list(call) == messages
    assert call.code() is grpc.StatusCode.OK
    assert dict(call.trailing_metadata())["x-end"] == "yes"
    server.until(lambda: server.engine.counters()["open_calls"] == 0)
    assert server.engine.counters()["messages_in"] == 5000


def test_ping_pong(server: Server) -> None:
    async def run() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = channel.stream_stream(BIDI)()
            await asyncio.wait_for(call.initial_metadata(), 5)
            for i in range(200):
                await call.write(str(i).encode())
                assert await call.read() == str(i).encode()
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(run())


def test_unary_requests_and_answers_on_stream_paths(channel: grpc.Channel) -> None:
    assert list(channel.unary_stream(REPEAT)(b"7x10", timeout=5)) == [bytes(10)] * 7
    assert channel.stream_unary(BIDI)(iter([b"only"]), timeout=5) == b"only"
    assert channel.unary_unary(BIDI)(b"only", timeout=5) == b"only"


def test_one_call_after_another(server: Server, channel: grpc.Channel) -> None:
    # Each call takes the slot of the previous one, whose last wake-up may be pending.
    for number in range(500):
        message = str(number).encode()
        assert channel.unary_unary(BIDI)(message, timeout=5) == message
    assert server.engine.counters()["streams"] == 500


def test_messages_larger_than_the_window(channel: grpc.Channel) -> None:
    messages = [bytes([i]) * 4_000_000 for i in range(6)]
    assert list(channel.stream_stream(BIDI)(iter(messages), timeout=30)) == messages


def test_error_during_a_stream(channel: grpc.Channel) -> None:
    call = channel.stream_stream(BIDI)(iter([b"one", b"fail"]), timeout=5)
    assert next(call) == b"one"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "no such thing"


def test_cancel(server: Server, channel: grpc.Channel) -> None:
    call = channel.unary_stream(REPEAT)(b"100000x1000")
    next(call)
    call.cancel()
    server.until(lambda: len(server.cancelled) == 1)
    server.until(lambda: server.engine.counters()["unsent_bytes"] == 0)


def test_deadline(server: Server, channel: grpc.Channel) -> None:
    call = channel.stream_stream(BIDI)(iter_slowly(), timeout=0.3)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.until(lambda: len(server.cancelled) == 1)


def iter_slowly():
    yield b"one"
    time.sleep(1)


def test_a_slow_reader_holds_the_writer(server: Server, channel: grpc.Channel) -> None:
    before = rss_bytes()
    call = channel.unary_stream(REPEAT)(b"2000x250000")
    time.sleep(0.5)
    counters = server.engine.counters()
    assert counters["unsent_bytes"] < 8 << 20
    spent = time.process_time()
    time.sleep(0.5)
    # Waiting for a reader costs nothing.
    assert time.process_time() - spent < 0.25
    assert rss_bytes() - before < 64 << 20
    assert sum(len(message) for message in call) == 500_000_000
    assert rss_bytes() - before < 128 << 20


def test_a_slow_handler_holds_the_client(server: Server) -> None:
    async def run() -> int:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = channel.stream_stream(SINK)()
            await call.initial_metadata()
            num_sent = 0
            try:
                while num_sent < 1000:
                    await asyncio.wait_for(call.write(bytes(100_000)), 0.5)
                    num_sent += 1
            except asyncio.TimeoutError:
                pass
            return num_sent

    # The sum is the window, a message, and grpcio's own buffer.
    assert asyncio.run(run()) < 100

"""Unary calls by real grpcio clients."""

import asyncio
import time

import grpc
import grpc.aio
import pytest
from harness import BLOB, ECHO, FAIL, SHOW, SLEEP, TEXT, Server


def test_echo(server: Server, channel: grpc.Channel) -> None:
    echo = channel.unary_unary(ECHO)
    for message in (b"", b"x", bytes(1000), bytes(70_000)):
        assert echo(message, timeout=5) == message
    counters = server.engine.counters()
    assert counters["calls"] == 4
    assert counters["bytes_in"] > 71_000
    assert counters["open_calls"] == 0


def test_error_with_text_and_trailers(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(FAIL)(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == TEXT
    trailers = [(key, value) for key, value in caught.value.trailing_metadata()]
    assert ("x-why", "because") in trailers
    assert ("x-why", "again") in trailers
    assert ("x-raw-bin", b"\x00\x01\xff") in trailers


def test_unknown_path(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Nothing")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "/test.Echo/Nothing" in caught.value.details()


def test_metadata_and_deadline(channel: grpc.Channel) -> None:
    metadata = [("x-a", "1"), ("x-b-bin", b"\x00\xff\x01"), ("x-a", "two")]
    _, call = channel.unary_unary(SHOW).with_call(b"", metadata=metadata, timeout=5)
    trailers = [(key, value) for key, value in call.trailing_metadata()]
    assert ("seen-x-a", "1") in trailers
    assert ("seen-x-a", "two") in trailers
    assert ("seen-x-b-bin", b"\x00\xff\x01") in trailers
    assert 4.0 < float(dict(trailers)["left"]) <= 5.1
    _, call = channel.unary_unary(SHOW).with_call(b"")
    assert dict(call.trailing_metadata())["left"] == "none"


def test_deadline(server: Server, channel: grpc.Channel) -> None:
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(SLEEP)(b"5", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 1.0
    server.until(lambda: len(server.cancelled) == 1)
    assert server.engine.counters()["open_calls"] == 0


def test_cancel(server: Server, channel: grpc.Channel) -> None:
    call = channel.unary_unary(SLEEP).future(b"5")
    server.until(lambda: server.num_calls == 1)
    call.cancel()
    server.until(lambda: len(server.cancelled) == 1)
    assert server.engine.counters()["cancelled"] == 1


def test_a_lost_connection_cancels_its_calls(server: Server, connect) -> None:
    channel = connect(server.address)
    calls = [channel.unary_unary(SLEEP).future(b"5") for _ in range(10)]
    server.until(lambda: server.num_calls == 10)
    channel.close()
    server.until(lambda: len(server.cancelled) == 10)
    server.until(lambda: server.engine.counters()["connections"] == 0)
    assert all(call.done() for call in calls)


def test_large_messages_both_ways(channel: grpc.Channel) -> None:
    message = bytes(range(256)) * (20_000_000 // 256)
    assert channel.unary_unary(ECHO)(message, timeout=30) == message


def test_too_large_a_message(serve, connect) -> None:
    channel = connect(serve(max_message_bytes=100_000).address)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(ECHO)(bytes(100_001), timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert channel.unary_unary(ECHO)(bytes(100_000), timeout=5) == bytes(100_000)


def test_gzip_requests(channel: grpc.Channel) -> None:
    message = b"compress me " * 10_000
    echo = channel.unary_unary(ECHO)
    assert echo(message, compression=grpc.Compression.Gzip, timeout=5) == message
    with pytest.raises(grpc.RpcError) as caught:
        echo(message, compression=grpc.Compression.Deflate, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_gzip_answers(serve, connect) -> None:
    server = serve(gzip_from_bytes=1024)
    echo = connect(server.address).unary_unary(ECHO)
    message = b"compress me " * 100_000
    assert echo(message, timeout=5) == message
    assert echo(b"small", timeout=5) == b"small"
    # The request was sent plain, the answer compressed.
    assert server.engine.counters()["bytes_out"] < 100_000


def test_gzip_bomb(serve, connect) -> None:
    channel = connect(serve(max_message_bytes=1 << 20).address)
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(ECHO)(bytes(100 << 20), compression=grpc.Compression.Gzip, timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert time.monotonic() - begin < 10


def test_many_at_once_on_one_connection(server: Server) -> None:
    async def run() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            sleep = channel.unary_unary(SLEEP)
            answers = await asyncio.gather(*[sleep(b"0.3", timeout=20) for _ in range(1000)])
            assert answers == [b"0.3"] * 1000

    asyncio.run(run())


def test_aio_in_a_hurry(server: Server) -> None:
    async def run() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            echo = channel.unary_unary(ECHO)
            for _ in range(10):
                messages = [str(i).encode() for i in range(200)]
                answers = await asyncio.gather(*[echo(message) for message in messages])
                assert answers == messages

    asyncio.run(run())


def test_keepalive_by_the_client(server: Server, connect) -> None:
    channel = connect(
        server.address,
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    )
    assert channel.unary_unary(SLEEP)(b"1", timeout=10) == b"1"


def test_large_answers_to_a_client_that_reads(server: Server, channel: grpc.Channel) -> None:
    blob = channel.unary_unary(BLOB)
    calls = [blob.future(b"5000000", timeout=30) for _ in range(10)]
    assert [len(call.result()) for call in calls] == [5_000_000] * 10
    assert server.engine.counters()["unsent_bytes"] == 0

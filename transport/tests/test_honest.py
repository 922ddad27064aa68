"""Honest clients in bad conditions, which must keep their connections."""

import random
import struct
import time
from collections.abc import Callable

import grpc
import pytest
import skysail_transport as st
from harness import (
    BIDI,
    DATA,
    ECHO,
    FAIL,
    GOAWAY,
    HEADERS,
    RST,
    SINK,
    SLEEP,
    WINDOW,
    Raw,
    Server,
    ends_stream,
    frame,
    headers,
    message,
    parse_frames,
)  # fmt: skip

CANCEL = struct.pack(">I", 8)


def is_served(raw: Raw, stream: int) -> bool:
    raw.call(stream, message(b"x"))
    frames, is_closed = raw.read(5.0, lambda each: each[0] == DATA and each[2] == stream)
    return not is_closed and not any(kind == GOAWAY for kind, *_ in frames)


def test_calls_cancelled_while_the_process_stalled(server: Server) -> None:
    # The process got no processor for a second: all calls made and cancelled since then wait
    # in the socket and are read at once. These are the smallest possible calls.
    server.pause.set()
    raw = Raw(server.port)
    block = headers(ECHO)
    assert raw.send(
        b"".join(
            frame(HEADERS, 4, stream, block)
            + frame(DATA, 1, stream, message(b""))
            + frame(RST, 0, stream, CANCEL)
            for stream in range(1, 2 * 4_000, 2)
        )
    )
    server.pause.clear()
    assert is_served(raw, 8_001)
    assert server.engine.counters()["connection_errors"] == 0
    raw.close()


@pytest.mark.parametrize(
    "block",
    [
        headers("/n/Nope"),
        headers(ECHO, (("grpc-timeout", "1x"),)),
        headers(ECHO).replace(b"application/grpc", b"application/json"),
    ],
    ids=["unknown method", "bad timeout", "no gRPC"],
)
def test_bodies_that_come_after_their_calls_were_refused(server: Server, block: bytes) -> None:
    raw = Raw(server.port)
    raw.send(frame(WINDOW, 0, 0, struct.pack(">I", 1 << 24)))
    # h2 allows 1,024 errors of a peer in the life of a connection.
    for first in range(1, 2 * 3_000, 200):
        streams = range(first, first + 200, 2)
        raw.send(b"".join(frame(HEADERS, 4, stream, block) for stream in streams))
        data = b""
        while sum(map(ends_stream, parse_frames(data))) < len(streams):
            part = raw.socket.recv(1 << 16)
            assert part
            data += part
        assert raw.send(b"".join(frame(DATA, 1, stream, message(b"x")) for stream in streams))
    assert is_served(raw, 6_001)
    server.until(lambda: server.engine.counters()["open_calls"] == 0)
    assert server.engine.counters()["connection_errors"] == 0
    raw.close()


def test_calls_to_an_unknown_method_leave_the_others_of_a_channel_alone(
    server: Server, channel: grpc.Channel
) -> None:
    nope, echo = channel.unary_unary("/n/Nope"), channel.unary_unary(ECHO)
    body = bytes(100_000)
    for _ in range(20):
        asked = [nope.future(body, timeout=20) for _ in range(100)]
        assert echo(b"x", timeout=20) == b"x"
        assert {each.exception().code() for each in asked} == {grpc.StatusCode.UNIMPLEMENTED}
    assert server.engine.counters()["connections_accepted"] == 1


def test_the_rest_of_a_refused_call_is_bounded(server: Server) -> None:
    raw = Raw(server.port)
    raw.send(frame(HEADERS, 4, 1, headers("/n/Nope")))
    frames, _ = raw.read(5.0, lambda each: each[0] == HEADERS)
    assert frames
    for _ in range(6):
        raw.send(frame(DATA, 0, 1, bytes(16_000)))
    frames, _ = raw.read(5.0, lambda each: each[0] == RST)
    assert (RST, 1) in [(kind, stream) for kind, _, stream, _ in frames]
    server.until(lambda: server.engine.counters()["open_calls"] == 0)
    assert is_served(raw, 3)
    raw.close()


def test_an_incomplete_unary_call_times_out(serve: Callable[..., Server]) -> None:
    server = serve(message_timeout_s=0.2)
    raw = Raw(server.port)
    raw.send(frame(HEADERS, 4, 1, headers(ECHO)) + frame(DATA, 0, 1, message(bytes(100))[:50]))
    assert raw.status() == "4"
    raw.close()


def test_an_incomplete_message_ends_its_stream(
    serve: Callable[..., Server],
) -> None:
    server = serve(message_timeout_s=0.3)
    raw = Raw(server.port)
    half = message(bytes(100))[:50]
    # The first message is complete in time, and no deadline runs between messages.
    raw.send(frame(HEADERS, 4, 1, headers(BIDI)) + frame(DATA, 0, 1, message(b"x")))
    raw.send(frame(HEADERS, 4, 3, headers(BIDI)) + frame(DATA, 0, 3, half))
    frames, _ = raw.read(5.0, lambda each: each[0] == HEADERS and bool(each[1] & 1))
    assert [stream for kind, flags, stream, _ in frames if kind == HEADERS and flags & 1] == [3]
    raw.send(frame(DATA, 1, 1))
    frames, _ = raw.read(5.0, lambda each: each[0] == HEADERS and bool(each[1] & 1))
    assert [stream for kind, flags, stream, _ in frames if kind == HEADERS and flags & 1] == [1]
    raw.close()


def test_messages_that_wait_for_the_application_are_not_late(
    serve: Callable[..., Server],
) -> None:
    server = serve(message_timeout_s=0.2)
    raw = Raw(server.port)
    raw.send(frame(HEADERS, 4, 1, headers(SINK)))
    for _ in range(8):
        raw.send(frame(DATA, 0, 1, message(b"") * 3_000))
    limit = (1 << 20) // 128 + 1
    server.until(lambda: server.engine.counters()["messages_in"] == limit)
    raw.read(0.5)
    assert server.cancelled == []
    raw.close()


def test_uploads_that_never_end_leave_the_others_their_share(serve: Callable[..., Server]) -> None:
    server = serve(max_untaken_bytes=8 << 20, max_message_bytes=1 << 20)
    hoarders = [Raw(server.port) for _ in range(3)]
    block = headers(ECHO)
    body = message(bytes(1 << 20))
    for raw in hoarders:
        raw.send(frame(WINDOW, 0, 0, struct.pack(">I", 1 << 20)))
        for number in range(8):
            raw.send(frame(HEADERS, 4, 1 + 2 * number, block))
            for at in range(0, len(body) - 16_000, 16_000):
                raw.send(frame(DATA, 0, 1 + 2 * number, body[at : at + 16_000]))
    server.until(lambda: server.engine.counters()["untaken_bytes"] > 3 << 20)
    assert server.engine.counters()["untaken_bytes"] <= 8 << 20
    for _ in range(3):
        honest = Raw(server.port)
        honest.send(frame(HEADERS, 4, 1, headers(FAIL)))
        upload = message(bytes(500_000))
        for at in range(0, len(upload), 16_000):
            is_last = at + 16_000 >= len(upload)
            honest.send(frame(DATA, int(is_last), 1, upload[at : at + 16_000]))
        assert honest.status() == "3"
        honest.close()
    for raw in hoarders:
        raw.close()


def test_unread_answers_leave_the_others_their_share(
    serve: Callable[..., Server],
) -> None:
    server = serve(max_total_unsent_bytes=8 << 20)
    hoarders = [Raw(server.port) for _ in range(4)]
    for raw in hoarders:
        for number in range(8):
            raw.call(1 + 2 * number, message(b"1000000"), "/test.Echo/Blob")
    honest = Raw(server.port)
    server.until(lambda: server.num_calls >= 20)
    honest.call(1, message(b"10000"), "/test.Echo/Blob")
    assert honest.status() == "0"
    assert server.engine.counters()["unsent_bytes"] <= 9 << 20
    assert "8" in [status for raw in hoarders for status in raw.statuses(0.1)]
    for raw in (*hoarders, honest):
        raw.close()


def test_clients_that_wait_to_be_accepted_when_it_drains_are_answered() -> None:
    # An inline engine accepts nothing before its first turn, so all are in the backlog.
    engine = st.Engine()
    port = engine.listen("127.0.0.1:0", unary=[ECHO])
    raws = [Raw(port, waits=False) for _ in range(200)]
    for raw in raws:
        raw.call(1, message(b"x"))
    engine.drain()
    end, num_answered = time.monotonic() + 5, 0
    while num_answered < len(raws) and time.monotonic() < end:
        calls, _ = engine.take(100)
        engine.flush([(call[0], call[2]) for call in calls])
        num_answered += len(calls)
    assert num_answered == len(raws)
    for raw in raws:
        assert raw.status() == "0"
        raw.close()
    engine.close()


@pytest.mark.parametrize("repeats", [b"\x0a\x00", b"\x00"])
def test_the_gain_of_gzip_is_bounded(serve: Callable[..., Server], connect, repeats: bytes) -> None:
    server = serve()
    echo = connect(server.address).unary_unary(ECHO)
    with pytest.raises(grpc.RpcError) as caught:
        echo(repeats * (20 << 20), compression=grpc.Compression.Gzip, timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # Some MiB of zeros are an honest tensor, and so is data that gains little.
    zeros = bytes(4 << 20)
    assert echo(zeros, compression=grpc.Compression.Gzip, timeout=20) == zeros


def test_others_are_answered_while_a_large_message_is_decompressed(
    server: Server, connect: Callable[..., grpc.Channel]
) -> None:
    # The data gains less than a hundredfold, so 48 MiB are taken, in more than ten turns.
    large = b"".join(random.randbytes(1024) + bytes(64 << 10) for _ in range(750))
    upload = connect(server.address).unary_unary(ECHO)
    answer = upload.future(large, compression=grpc.Compression.Gzip, timeout=30)
    assert answer.result() == large
    assert server.engine.counters()["wake_ups"] > 12


def test_old_connections_are_renewed_without_a_lost_call(
    serve: Callable[..., Server], connect: Callable[..., grpc.Channel]
) -> None:
    server = serve(max_connection_age_s=0.3)
    channel = connect(server.address)
    sleep = channel.unary_unary(SLEEP).future(b"0.8", timeout=10)
    echo = channel.unary_unary(ECHO)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert echo(b"x", timeout=10) == b"x"
    assert sleep.result() == b"0.8"
    assert server.engine.counters()["connections_accepted"] >= 3
    server.until(lambda: server.engine.counters()["connections"] == 1)

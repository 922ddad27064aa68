"""Peers that break the rules or exploit them; each test is bounded in count and time."""

import functools
import gzip
import resource
import socket
import struct
import time
from collections.abc import Callable

import grpc
import pytest
from harness import (
    BLOB,
    CONTINUATION,
    DATA,
    ECHO,
    HEADERS,
    PING,
    RST,
    SETTINGS,
    SINK,
    SLEEP,
    WINDOW,
    Raw,
    Server,
    ends_stream,
    frame,
    goaway_codes,
    headers,
    message,
    rss_bytes,
)  # fmt: skip

ENHANCE_YOUR_CALM = 11


@pytest.fixture
def is_well(server: Server, channel: grpc.Channel) -> Callable[[], None]:
    """Return a check that fails unless another client is served well."""
    echo = channel.unary_unary(ECHO)
    echo(b"", timeout=5)

    def check() -> None:
        begin = time.monotonic()
        assert echo(b"well", timeout=5) == b"well"
        assert time.monotonic() - begin < 1.0

    return check


def test_rapid_reset(server: Server, is_well: Callable[[], None]) -> None:
    raw, before, block = Raw(server.port), rss_bytes(), headers(SLEEP)
    for first in range(0, 20_000, 100):
        burst = b"".join(
            frame(HEADERS, 4, 1 + 2 * number, block)
            + frame(DATA, 1, 1 + 2 * number, message(b"1"))
            + frame(RST, 0, 1 + 2 * number, struct.pack(">I", 8))
            for number in range(first, first + 100)
        )
        if not raw.send(burst):
            break
    is_well()
    raw.close()
    assert rss_bytes() - before < 64 << 20
    server.until(lambda: server.engine.counters()["open_calls"] == 0)


def test_a_burst_of_honest_cancellations(server: Server) -> None:
    raw = Raw(server.port)
    streams = range(1, 400, 2)
    raw.send(b"".join(frame(HEADERS, 4, stream, headers(SLEEP)) for stream in streams))
    raw.send(b"".join(frame(RST, 0, stream, struct.pack(">I", 8)) for stream in streams))
    raw.call(401, message(b"x"))
    assert raw.status() == "0"
    raw.close()


def test_continuation_flood(server: Server, is_well: Callable[[], None]) -> None:
    for part in (b"", b"\x00\x01a\x01b" * 100):
        raw, before = Raw(server.port), rss_bytes()
        raw.send(frame(HEADERS, 1, 1, headers()))
        flood = frame(CONTINUATION, 0, 1, part) * 100
        for _ in range(1000):
            if not raw.send(flood):
                break
        # The kernel may take all bytes before the server has read the ones that it refuses.
        assert raw.read(seconds=5.0)[1]
        is_well()
        assert rss_bytes() - before < 16 << 20
        raw.close()


def test_headers_too_large(server: Server) -> None:
    raw = Raw(server.port)
    block = headers(extra=(("x-big", "v" * 15_000),))
    raw.send(frame(HEADERS, 4, 1, block) + frame(DATA, 1, 1, message(b"x")))
    assert raw.statuses() == ["0"]
    block = headers(extra=(("x-big", "v" * 30_000),))
    raw.send(frame(HEADERS, 1, 3, block[:16_000]) + frame(CONTINUATION, 4, 3, block[16_000:]))
    raw.send(frame(DATA, 1, 3, message(b"x")))
    frames, is_closed = raw.read()
    # The request is answered with 431 or its connection closed, but not served.
    assert is_closed or not any(kind == DATA for kind, _, stream, _ in frames if stream == 3)
    raw.close()


@pytest.mark.parametrize(
    "flood", [frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535))],
    ids=["ping", "settings"],
)  # fmt: skip
def test_floods_without_reading(server: Server, is_well: Callable[[], None], flood: bytes) -> None:
    raw, before = Raw(server.port), rss_bytes()
    raw.socket.settimeout(0.5)
    for _ in range(300):
        if not raw.send(flood * 1000):
            break
    is_well()
    assert rss_bytes() - before < 16 << 20
    spent = time.process_time()
    time.sleep(0.5)
    # A peer that has to wait costs nothing.
    assert time.process_time() - spent < 0.25
    raw.close()


def test_frames_of_one_byte(server: Server) -> None:
    raw, body = Raw(server.port), message(bytes(60_000))
    raw.send(frame(HEADERS, 4, 1, headers()))
    for first in range(0, len(body), 1000):
        raw.send(
            b"".join(
                frame(DATA, 0, 1, body[i : i + 1])
                for i in range(first, min(first + 1000, len(body)))
            )
        )
    raw.send(frame(DATA, 1, 1))
    frames, _ = raw.read(5, ends_stream)
    assert sum(len(payload) for kind, _, _, payload in frames if kind == DATA) == len(body)
    assert goaway_codes(frames) == []
    raw.close()


@functools.cache
def bomb() -> bytes:
    return gzip.compress(bytes(200 << 20), 1)


def test_malformed_messages(server: Server) -> None:
    packed = bomb()
    cases = {
        "4 GB announced": (b"\0\xff\xff\xff\xff", (), "8"),
        "unknown flag": (b"\7\0\0\0\0", (), "13"),
        "half a message": (b"\0\0\0\0\5ab", (), "13"),
        "two messages": (message(b"a") * 2, (), "13"),
        "no message": (b"", (), "13"),
        "flag without encoding": (message(b"abc", 1), (), "13"),
        "not gzip": (message(b"abc", 1), (("grpc-encoding", "gzip"),), "13"),
        "unknown encoding": (message(b"abc", 1), (("grpc-encoding", "zstd"),), "12"),
        "bad timeout": (message(b""), (("grpc-timeout", "1x"),), "13"),
        "bomb": (message(packed, 1), (("grpc-encoding", "gzip"),), "8"),
    }
    for name, (body, extra, expected) in cases.items():
        raw = Raw(server.port)
        raw.send(frame(HEADERS, 4, 1, headers(extra=extra)))
        for at in range(0, len(body) or 1, 16_000):
            raw.send(frame(DATA, 1 if at + 16_000 >= len(body) else 0, 1, body[at : at + 16_000]))
        assert raw.status() == expected, name
        raw.close()


def test_a_deadline_that_the_client_ignores(server: Server) -> None:
    raw = Raw(server.port)
    block = headers(SLEEP, extra=(("grpc-timeout", "100m"),))
    raw.send(frame(HEADERS, 4, 1, block) + frame(DATA, 1, 1, message(b"5")))
    assert raw.status() == "4"
    server.until(lambda: server.cancelled == ["deadline exceeded"])
    raw.close()


def test_a_reader_that_stops_reading_its_socket(serve: Callable[..., Server]) -> None:
    server, before = serve(max_unsent_bytes=16 << 20), rss_bytes()
    window = 0x7FFFFFFF
    raw = Raw(server.port, struct.pack(">HI", 4, window), receive_buffer=4096)
    raw.send(frame(WINDOW, 0, 0, struct.pack(">I", window - 65535)))
    for number in range(200):
        raw.call(1 + 2 * number, message(b"5000000"), BLOB)
    time.sleep(1)
    assert server.engine.counters()["unsent_bytes"] <= 33 << 20
    assert rss_bytes() - before < 128 << 20
    raw.close()
    server.until(lambda: server.engine.counters()["unsent_bytes"] == 0)


def test_a_reader_that_opens_no_window(serve: Callable[..., Server]) -> None:
    server, before = serve(max_unsent_bytes=16 << 20), rss_bytes()
    raw = Raw(server.port)
    for number in range(200):
        raw.call(1 + 2 * number, message(b"5000000"), BLOB)
    time.sleep(1)
    assert server.engine.counters()["unsent_bytes"] <= 33 << 20
    assert rss_bytes() - before < 128 << 20
    assert "8" in raw.statuses()
    raw.close()
    server.until(lambda: server.engine.counters()["unsent_bytes"] == 0)


def test_a_peer_that_reads_nothing_is_closed(serve: Callable[..., Server]) -> None:
    server = serve(keepalive_s=0.3, keepalive_timeout_s=0.3)
    window = 0x7FFFFFFF
    raw = Raw(server.port, struct.pack(">HI", 4, window), receive_buffer=4096)
    raw.send(frame(WINDOW, 0, 0, struct.pack(">I", window - 65535)))
    raw.call(1, message(b"50000000"), BLOB)
    server.until(lambda: server.engine.counters()["unsent_bytes"] > 0)
    # The peer keeps sending, so that it is not silent.
    end = time.monotonic() + 5
    while raw.send(frame(PING, 1, 0, b"12345678")) and time.monotonic() < end:
        time.sleep(0.1)
    server.until(lambda: server.engine.counters()["connections"] == 0)
    raw.close()


def test_many_half_open_connections(server: Server, is_well: Callable[[], None]) -> None:
    before = rss_bytes()
    raws = [Raw(server.port) for _ in range(400)]
    is_well()
    assert rss_bytes() - before < 64 << 20
    for raw in raws:
        raw.close()
    server.until(lambda: server.engine.counters()["connections"] == 1)


def test_a_thousand_connections_with_a_call_each(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Both ends of each connection are in this process.
    if hard < 3000:
        pytest.skip("the process may not open 3,000 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    raws = [Raw(server.port) for _ in range(1000)]
    for number, raw in enumerate(raws):
        raw.call(1, message(b"0.3" + b"0" * number), SLEEP)
    server.until(lambda: server.num_calls == 1000)
    assert server.engine.counters()["connections"] == 1000
    for number, raw in enumerate(raws):
        answer = b""
        while b"0.3" + b"0" * number not in answer:
            part = raw.socket.recv(1 << 16)
            assert part
            answer += part
        raw.close()
    server.until(lambda: server.engine.counters()["connections"] == 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_that_shuts_its_side(server: Server) -> None:
    # HTTP/2 has no half-closed connection, so the calls end with it.
    raw = Raw(server.port)
    raw.call(1, message(b"30"), SLEEP)
    server.until(lambda: server.num_calls == 1)
    raw.socket.shutdown(socket.SHUT_WR)
    server.until(lambda: len(server.cancelled) == 1)
    assert raw.read(1.0)[1]
    raw.close()


def test_messages_that_are_not_taken() -> None:
    # An inline engine reads only in `take`.
    server = Server(has_own_thread=True, max_untaken_bytes=4 << 20)
    server.pause.set()
    time.sleep(0.1)
    raw, before = Raw(server.port), rss_bytes()
    raw.send(frame(WINDOW, 0, 0, struct.pack(">I", 1 << 20)))
    body = message(bytes(16_000))
    for number in range(900):
        raw.call(1 + 2 * number, body)
    time.sleep(0.5)
    assert rss_bytes() - before < 64 << 20
    assert server.engine.counters()["untaken_bytes"] < 5 << 20
    server.pause.clear()
    found = raw.statuses(1.5)
    # A refused call with an unread body is reset after its answer, depending on timing.
    assert set(found) - {"RST"} == {"0", "8"}
    raw.close()
    server.until(lambda: server.engine.counters()["untaken_bytes"] == 0)
    server.close()


def test_empty_messages_without_acknowledgement(server: Server) -> None:
    raw, num_sent = Raw(server.port), 64 * 3_000
    raw.send(frame(HEADERS, 4, 1, headers(SINK)))
    for _ in range(64):
        raw.send(frame(DATA, 0, 1, message(b"") * 3_000))
    limit = (1 << 20) // 128 + 1
    server.until(lambda: server.engine.counters()["messages_in"] == limit)
    raw.read(0.2)
    assert server.engine.counters()["messages_in"] == limit
    # Waiting messages are delivered once others are acknowledged.
    stream_id = next(iter(server._paths))

    def are_all_here() -> bool:
        for _ in range(limit):
            server.engine.acknowledge(stream_id, 0)
        return server.engine.counters()["messages_in"] == num_sent

    server.until(are_all_here)
    raw.close()

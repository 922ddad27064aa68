"""Requests that are HTTP but not gRPC, or not even HTTP/2."""

import socket
import struct

import pytest
from harness import (
    DATA,
    ECHO,
    HEADERS,
    PING,
    PREFACE,
    RST,
    SETTINGS,
    Raw,
    Server,
    ends_stream,
    frame,
    goaway_codes,
    message,
    parse_frames,
)
from hpack import Decoder, Encoder


def ask(server: Server, method: str, kind: str | None) -> tuple[dict[str, str], bytes]:
    """Return the headers and body of the response to one request without a body."""
    fields = [(":method", method), (":scheme", "http"), (":path", ECHO), (":authority", "x")]
    if kind is not None:
        fields.append(("content-type", kind))
    raw = Raw(server.port)
    raw.send(frame(HEADERS, 5, 1, Encoder().encode(fields)))
    frames, is_closed = raw.read(5, ends_stream)
    assert not is_closed
    raw.close()
    [block] = [payload for kind, _, _, payload in frames if kind == HEADERS]
    assert not any(kind == RST for kind, _, _, _ in frames)
    body = b"".join(payload for kind, _, _, payload in frames if kind == DATA)
    return dict(Decoder().decode(block)), body


def test_another_method(server: Server) -> None:
    fields, body = ask(server, "GET", None)
    assert fields[":status"] == "405"
    assert fields["allow"] == "POST"
    assert b"gRPC" in body
    fields, body = ask(server, "HEAD", None)
    assert (fields[":status"], body) == ("405", b"")


@pytest.mark.parametrize("kind", [None, "application/json", "application/grpc-web"])
def test_another_content_type(server: Server, kind: str | None) -> None:
    fields, body = ask(server, "POST", kind)
    assert fields[":status"] == "415"
    assert b"application/grpc" in body


def test_unread_answers_are_few(server: Server) -> None:
    # Answers without a window wait, and count as open calls until then.
    raw = Raw(server.port, struct.pack(">HI", 4, 0))
    block = Encoder().encode(
        [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")]
    )
    raw.send(b"".join(frame(HEADERS, 5, stream, block) for stream in range(1, 4001, 2)))
    frames, _ = raw.read(0.3)
    assert sum(kind == RST for kind, _, _, _ in frames) == 1000
    assert 0 < server.engine.counters()["unsent_bytes"] < 100_000
    raw.close()
    server.until(lambda: server.engine.counters()["unsent_bytes"] == 0)


def read_to_the_end(plain: socket.socket) -> bytes:
    """Return the bytes before the end; a reset, which may drop bytes, is a failure."""
    plain.settimeout(5)
    data = b""
    while part := plain.recv(1 << 16):
        data += part
    return data


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n" + bytes(50_000),
     b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), bytes(range(256)) * 100,
     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r" + bytes(100)],
    ids=["http1", "http1-long", "tls", "garbage", "nearly"],
)  # fmt: skip
def test_other_protocols_than_http_2(server: Server, first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        plain.sendall(first)
        frames = parse_frames(read_to_the_end(plain))
        assert {kind for kind, _, _, _ in frames} <= {4, 7, 8}
    server.until(lambda: server.engine.counters()["connections"] == 0)
    raw = Raw(server.port)
    raw.call(1, message(b"well"))
    assert raw.status() == "0"
    raw.close()


def test_a_peer_reads_why_it_was_closed(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        wrong = frame(PING, 0, 1, b"12345678")
        plain.sendall(PREFACE + frame(SETTINGS, 0, 0) + wrong + bytes(150_000))
        assert goaway_codes(parse_frames(read_to_the_end(plain))) == [1]

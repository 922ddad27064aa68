"""Fuzzer: HTTP/2 frames in random order on the gRPC port, and floods of each kind."""

import socket
import struct
from random import Random

from hpack import Encoder

from benchmarks.attack.cases import Case
from benchmarks.attack.mutations import mutated
from benchmarks.attack.protobuf_structures import INFER, PREDICT, PREDICT_STREAM, STREAM
from benchmarks.attack.sending import CLOSED, SILENT, Sender

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PATIENCE_S = 0.2
_EXTRA: tuple[tuple[tuple[str, str], ...], ...] = (
    (), (), (("grpc-timeout", "50m"),), (("grpc-timeout", "1x"),), (("grpc-encoding", "gzip"),),
    (("x-a-bin", "AA=,*"),), (("x-big", "v" * 30_000),),
)  # fmt: skip
_PATHS = (INFER, PREDICT, STREAM, PREDICT_STREAM, "/unknown", "")
_ANSWERS = frozenset({CLOSED, SILENT, "answered"})


def case(rng: Random) -> Case:
    """Return the frames of one connection."""
    if rng.random() < 0.25:
        name, data = _flood(rng)
    else:
        streams = rng.choices((0, 1, 1, 3, 3, 5, 2), k=rng.randrange(1, 30))
        name, data = "frames", b"".join(_frame_of(rng, stream) for stream in streams)
        data = _calls(rng) + data
        if rng.random() < 0.5:
            name, data = "changed frames", mutated(rng, data)
    start = _PREFACE + _frame(SETTINGS, 0, 0) + _frame(SETTINGS, 1, 0)
    return Case(name, lambda sender: _talk(sender, start + data), _ANSWERS)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = struct.pack(">I", len(payload))[1:]
    return size + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _head(path: str, extra: tuple[tuple[str, str], ...] = ()) -> bytes:
    fields = [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
        ("content-type", "application/grpc"), ("te", "trailers"), *extra,
    ]  # fmt: skip
    return bytes(Encoder().encode(fields, huffman=False))


def _message(rng: Random) -> bytes:
    body = rng.randbytes(rng.choice((0, 1, 20, 3000)))
    return bytes([rng.choice((0, 0, 0, 1, 7))]) + struct.pack(">I", len(body)) + body


def _calls(rng: Random) -> bytes:
    """Return the frames of a valid client."""
    parts = []
    for stream in range(1, 2 * rng.randrange(1, 8), 2):
        parts.append(_frame(HEADERS, 4, stream, _head(rng.choice(_PATHS))))
        parts.append(_frame(DATA, 1, stream, _message(rng)))
    return b"".join(parts)


def _frame_of(rng: Random, stream: int) -> bytes:
    kind = rng.choice((*range(10), HEADERS, DATA, DATA, DATA, 12))
    flags = rng.choice((0, 1, 4, 5, 0x28))
    if kind == HEADERS:
        return _frame(HEADERS, flags | 4, stream, _head(rng.choice(_PATHS), rng.choice(_EXTRA)))
    if kind == DATA:
        return _frame(DATA, flags & 1, stream, _message(rng))
    if kind in (RESET, WINDOW):
        return _frame(kind, 0, stream, struct.pack(">I", rng.choice((0, 1, 8, 1 << 20, 1 << 31))))
    if kind == SETTINGS:
        pair = struct.pack(">HI", rng.randrange(8), rng.choice((0, 1, 1 << 14, 1 << 31)))
        return _frame(kind, 0, 0, pair)
    if kind == PING:
        return _frame(kind, flags & 1, 0, bytes(8))
    return _frame(kind, flags, stream, rng.randbytes(rng.randrange(20)))


def _flood(rng: Random) -> tuple[str, bytes]:
    """Return the name and the frames of a well-known flood attack."""
    count = rng.choice((100, 1000, 5000))
    head = _head(INFER)
    opened = _frame(HEADERS, 0, 1, head)
    reset = struct.pack(">I", 8)
    floods = {
        "resets": b"".join(
            _frame(HEADERS, 4, 1 + 2 * number, head) + _frame(RESET, 0, 1 + 2 * number, reset)
            for number in range(count)
        ),
        "unknown methods": b"".join(
            _frame(HEADERS, 4, 1 + 2 * number, _head("/no")) + _frame(DATA, 1, 1 + 2 * number)
            for number in range(count)
        ),
        "continuations": opened + _frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 50) * count,
        "pings": _frame(PING, 0, 0, bytes(8)) * count,
        "settings": _frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * count,
        "priorities": _frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 9)) * count,
        "empty data": _frame(HEADERS, 4, 1, head) + _frame(DATA, 0, 1) * count,
        "data of a byte": _frame(HEADERS, 4, 1, head) + _frame(DATA, 0, 1, b"\0") * count,
        "windows": _frame(WINDOW, 0, 0, struct.pack(">I", 1)) * count,
    }
    name = rng.choice(list(floods))
    return f"flood of {name}", floods[name]


def _talk(sender: Sender, data: bytes) -> str:
    """Send the data and read the response for a short time."""
    host, _, port = sender.endpoints.grpc.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        received = 0
        try:
            connection.sendall(data)
            connection.settimeout(_PATIENCE_S)
            while part := connection.recv(1 << 16):
                received += len(part)
        except TimeoutError:
            return "answered" if received else SILENT
        except OSError:
            pass
    return CLOSED

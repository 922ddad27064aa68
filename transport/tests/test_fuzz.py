"""Random peers: the engine survives any bytes and serves the next peer.

A failure's parameters name its seed. The compiled targets are in `fuzz/`.
"""

import random
import socket
import struct
import time

import pytest
from harness import (
    BIDI,
    CONTINUATION,
    DATA,
    ECHO,
    FAIL,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST,
    SETTINGS,
    WINDOW,
    Raw,
    Server,
    frame,
    headers,
    message,
    parse_frames,
)

SECONDS = 1.0
EXTRA = [(), (("grpc-timeout", "50m"),), (("grpc-encoding", "gzip"),), (("x-a-bin", "AA=,*"),)]


def random_frame(chance: random.Random, stream: int) -> bytes:
    body = message(chance.randbytes(chance.choice([0, 1, 20, 3000])), chance.random() < 0.1)
    kind = chance.choice([HEADERS, HEADERS, DATA, DATA, DATA, RST, SETTINGS, PING, GOAWAY, WINDOW,
                          CONTINUATION, 2, 5, 12])  # fmt: skip
    flags = chance.choice([0, 1, 4, 5])
    if kind == HEADERS:
        path = chance.choice([ECHO, FAIL, BIDI, "/unknown"])
        return frame(HEADERS, flags | 4, stream, headers(path, chance.choice(EXTRA)))
    if kind == DATA:
        return frame(DATA, flags & 1, stream, body)
    if kind in (RST, WINDOW):
        return frame(kind, 0, stream, struct.pack(">I", chance.choice([0, 1, 8, 1 << 20])))
    if kind == SETTINGS:
        return frame(kind, 0, 0, struct.pack(">HI", chance.randrange(8), chance.randrange(1 << 16)))
    if kind == PING:
        return frame(kind, flags & 1, 0, bytes(8))
    return frame(kind, flags, stream, chance.randbytes(chance.randrange(20)))


def valid_bytes(chance: random.Random) -> bytes:
    """Return the bytes of a client that keeps the rules."""
    parts = [PREFACE, frame(SETTINGS, 0, 0), frame(SETTINGS, 1, 0)]
    for stream in range(1, 2 * chance.randrange(1, 8), 2):
        body = message(chance.randbytes(chance.choice([0, 5, 4000])))
        parts.append(frame(HEADERS, 4, stream, headers(chance.choice([ECHO, BIDI]))))
        parts.append(frame(DATA, 1, stream, body))
    return b"".join(parts)


def mutated_bytes(chance: random.Random) -> bytes:
    """Return frames in random order, with bytes changed, removed or doubled."""
    streams = [chance.choice([0, 1, 1, 3, 3, 5, 2]) for _ in range(chance.randrange(1, 30))]
    data = bytearray(valid_bytes(chance))
    data += b"".join(random_frame(chance, stream) for stream in streams)
    for _ in range(chance.choice([0, 0, 1, 5])):
        at = chance.randrange(len(data))
        size = chance.randrange(1, 10)
        data[at : at + size] = chance.choice(
            [b"", chance.randbytes(size), bytes(data[at : at + size]) * 2]
        )
    return bytes(data)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_peers(server: Server, seed: int) -> None:
    chance, end, num_peers = random.Random(seed), time.monotonic() + SECONDS, 0
    honest = Raw(server.port)
    stream = 1
    while time.monotonic() < end:
        peers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
        for peer in peers:
            data = mutated_bytes(chance)
            cut = chance.randrange(len(data))
            try:
                peer.sendall(data[:cut])
                peer.sendall(data[cut:])
            except OSError:
                continue  # closed for what it had sent
        num_peers += len(peers)
        honest.call(stream, message(b"well"))
        honest.socket.settimeout(5)
        assert b"well" in honest.socket.recv(1 << 16)
        stream += 2
        for peer in peers:
            if chance.random() < 0.5:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
    assert num_peers > 50
    server.until(lambda: server.engine.counters()["connections"] == 1)
    left = server.engine.counters()
    assert [left[key] for key in ("open_calls", "unsent_bytes", "untaken_bytes")] == [0, 0, 0]
    honest.close()


def test_valid_requests_are_served_in_any_pieces(server: Server) -> None:
    chance = random.Random(3)
    for _ in range(30):
        data = valid_bytes(chance)
        num_calls = sum(kind == HEADERS for kind, _, _, _ in parse_frames(data[len(PREFACE) :]))
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as peer:
            while data:
                size = chance.choice([1, 9, 100, 5000])
                peer.sendall(data[:size])
                data = data[size:]
            answers, num_ended = b"", 0
            while num_ended < num_calls:
                part = peer.recv(1 << 16)
                assert part
                answers += part
                num_ended = sum(kind == HEADERS and flags & 1 for kind, flags, _, _ in
                                parse_frames(answers))  # fmt: skip
    server.until(lambda: server.engine.counters()["connections"] == 0)

"""Fuzzer: HTTP/1.1 with broken heads, truncated bodies and odd chunks."""

import socket
from random import Random

from benchmarks.attack.cases import Case
from benchmarks.attack.models import APPLICATION
from benchmarks.attack.mutations import mutated
from benchmarks.attack.sending import CLOSED, SILENT, Sender

_BODY = b'{"input":[1,2,3]}'
_PATH = f"/{APPLICATION}/predict".encode()
_PATIENCE_S = 0.2
"""Longest wait for an answer; the server waits for the rest of a request that is incomplete."""

_START = b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % _PATH
_LENGTH = b"Content-Length: %d\r\n" % len(_BODY)
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_CHUNKS = b"11\r\n%b\r\n0\r\n\r\n" % _BODY
_REQUESTS = {
    "plain": _START + _LENGTH + b"\r\n" + _BODY,
    "chunked": _START + _CHUNKED + b"\r\n" + _CHUNKS,
    "both lengths": _START + _LENGTH + _CHUNKED + b"\r\n" + _CHUNKS,
    "two lengths": _START + _LENGTH + b"Content-Length: 5\r\n\r\n" + _BODY,
    "negative length": _START + b"Content-Length: -1\r\n\r\n" + _BODY,
    "huge length": _START + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n" + _BODY,
    "short body": _START + b"Content-Length: 1000\r\n\r\n" + _BODY,
    "huge chunk": _START + _CHUNKED + b"\r\nffffffffffffffff\r\n" + _BODY,
    "negative chunk": _START + _CHUNKED + b"\r\n-1\r\n" + _BODY + b"\r\n0\r\n\r\n",
    "chunks of a byte": _START + _CHUNKED + b"\r\n"
    + b"".join(b"1\r\n%c\r\n" % byte for byte in _BODY) + b"0\r\n\r\n",
    "chunk extensions": _START + _CHUNKED + b"\r\n11;" + b"x" * 5000 + b"\r\n" + _BODY,
    "trailers": _START + _CHUNKED + b"\r\n11\r\n%b\r\n0\r\nA: b\r\n\r\n" % _BODY,
    "folded header": _START + b"A: b\r\n c\r\n" + _LENGTH + b"\r\n" + _BODY,
    "space before colon": _START + b"A : b\r\n" + _LENGTH + b"\r\n" + _BODY,
    "bare line feeds": (_START + _LENGTH + b"\r\n").replace(b"\r\n", b"\n") + _BODY,
    "no host": b"POST %b HTTP/1.1\r\n" % _PATH + _LENGTH + b"\r\n" + _BODY,
    "many headers": _START + b"A: b\r\n" * 3000 + _LENGTH + b"\r\n" + _BODY,
    "large header": _START + b"A: " + b"b" * 200_000 + b"\r\n" + _LENGTH + b"\r\n" + _BODY,
    "long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "odd path": b"GET /v2/models/%ff%00%2e%2e/..;/infer HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no version": b"GET /v2\r\n\r\n",
    "version 9": b"GET /v2 HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "odd method": b"BREW /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "connect": b"CONNECT x:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "expectation": _START + _LENGTH + b"Expect: 100-continue\r\n\r\n" + _BODY,
    "web socket": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),
    "pipeline": (_START + _LENGTH + b"\r\n" + _BODY) * 40,
    "half a head": _START,
    "other host": _START.replace(b"localhost", b"evil.example") + _LENGTH + b"\r\n" + _BODY,
    "not gzip": _START + _LENGTH + b"Content-Encoding: gzip\r\n\r\n" + _BODY,
}  # fmt: skip
_ANSWERS = frozenset({
    CLOSED, SILENT, "100", "101", "200", "400", "404", "405", "408", "411", "413", "414", "415",
    "417", "421", "426", "431", "501", "505",
})  # fmt: skip


def case(rng: Random) -> Case:
    """Return the bytes of one connection."""
    name = rng.choice(list(_REQUESTS))
    data = _REQUESTS[name]
    if rng.random() < 0.5:
        name, data = f"changed: {name}", mutated(rng, data)
    step = rng.choice((len(data) or 1, len(data) or 1, 1 + len(data) // 2, 1 + len(data) // 9))
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    return Case(name, lambda sender: _talk(sender, parts), _ANSWERS)


def _talk(sender: Sender, parts: list[bytes]) -> str:
    """Send the parts one after the other and return the first status."""
    host, _, port = sender.endpoints.http.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in parts:
                connection.sendall(part)
            connection.settimeout(_PATIENCE_S)
            answer = connection.recv(4096)
        except TimeoutError:
            return SILENT
        except OSError:
            return CLOSED
    words = answer.split(b" ", 2)
    return words[1].decode("latin-1") if answer.startswith(b"HTTP/") else CLOSED

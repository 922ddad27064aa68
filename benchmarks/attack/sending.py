"""Sends a body to a door and returns the outcome in one word."""

import gzip
import http.client
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

import grpc
from typing_extensions import Self

from benchmarks.attack.cluster import Endpoints
from benchmarks.attack.protobuf_structures import PREDICT_STREAM, STREAM
from benchmarks.attack.structure import Structure

TIMEOUT_S = 30.0
ENCODINGS = ("identity", "gzip", "deflate")
CLOSED = "closed"
"""Outcome if the server closed the connection before an answer."""
SILENT = "silent"
"""Outcome if there was no answer in time."""

_LEVEL = 1


def packed(body: bytes, encoding: str) -> bytes:
    """Return a body in an HTTP content encoding."""
    if encoding == "gzip":
        return gzip.compress(body, _LEVEL)
    return zlib.compress(body, _LEVEL) if encoding == "deflate" else body


class Sender:
    """Connections to both query doors of one frontend."""

    def __init__(self, endpoints: Endpoints, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self.endpoints = endpoints
        self._http: http.client.HTTPConnection | None = None
        self._channel: Any = grpc.insecure_channel(
            endpoints.grpc,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # The option gives each sender its own connection.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._channel.close()
        if self._http is not None:
            self._http.close()

    def structure(self, structure: Structure, size: int, encoding: str = "identity") -> str:
        """Send a structure of a size, which counts before compression."""
        body = structure.make(size)
        if structure.is_http:
            return self.post(structure.door, packed(body, encoding), encoding)
        return self.call(structure.door, body, is_compressed=encoding != "identity")

    def call(
        self, method: str, body: bytes, *, is_compressed: bool = False, timeout_s: float = 0.0
    ) -> str:
        """Send a message to an RPC and return the name of its status."""
        compression = grpc.Compression.Gzip if is_compressed else grpc.Compression.NoCompression
        timeout_s = timeout_s or self._timeout_s
        try:
            if method in (STREAM, PREDICT_STREAM):
                answers: Iterator[bytes] = self._channel.stream_stream(method)(
                    iter([body]), timeout=timeout_s, compression=compression
                )
                deque(answers, maxlen=0)
            else:
                self._channel.unary_unary(method)(body, timeout=timeout_s, compression=compression)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def post(self, path: str, body: bytes, encoding: str = "identity", **headers: str) -> str:
        """Send a body to an HTTP door and return the status."""
        if encoding != "identity":
            headers["Content-Encoding"] = encoding
        is_kept = self._http is not None
        outcome = self._post(path, body, headers)
        # The server may have closed an idle connection at the same moment.
        return self._post(path, body, headers) if is_kept and outcome == CLOSED else outcome

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> str:
        connection = self._http
        if connection is None:
            connection = http.client.HTTPConnection(self.endpoints.http, timeout=self._timeout_s)
        self._http = None
        try:
            # The server may answer and close the connection before the end of the body.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
        except TimeoutError:
            outcome = SILENT
        except (OSError, http.client.HTTPException):
            outcome = CLOSED
        else:
            outcome = str(answer.status)
            if not answer.will_close:
                self._http = connection
                return outcome
        connection.close()
        return outcome


class Once:
    """An iterator of the requests of a stream, which are sent one at a time."""

    def __init__(self) -> None:
        self._ready = threading.Semaphore(0)
        self._next = b""
        self._is_ended = False

    def put(self, body: bytes) -> None:
        """Send a request."""
        self._next = body
        self._ready.release()

    def end(self) -> None:
        """End the iterator."""
        self._is_ended = True
        self._ready.release()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._ready.acquire()
        if self._is_ended:
            raise StopIteration
        return self._next

"""An engine turned by a thread of the test, and raw HTTP/2 for clients that break rules."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import skysail_transport as st
from hpack import Decoder, Encoder

ECHO = "/test.Echo/Unary"
SLEEP = "/test.Echo/Sleep"
FAIL = "/test.Echo/Fail"
SHOW = "/test.Echo/Show"
BLOB = "/test.Echo/Blob"
BIDI = "/test.Echo/Bidi"
REPEAT = "/test.Echo/Repeat"
SINK = "/test.Echo/Sink"
UNARY = [ECHO, SLEEP, FAIL, SHOW, BLOB]
STREAMS = [BIDI, REPEAT, SINK]

TEXT = "bad: 100% naïve\nline two ✓"
TRAILERS = [("x-why", "because"), ("x-raw-bin", b"\x00\x01\xff"), ("x-why", "again")]

Answers: TypeAlias = Mapping[str, Callable[[bytes], bytes]]
NONE: Answers = MappingProxyType({})


class Server:
    """A server whose path chooses between echo, sleep, failure and a view of the request."""

    def __init__(self, has_own_thread: bool = False, address: str = "127.0.0.1:0",
                 tls: st.ServerTls | None = None, unary: Answers = NONE, streams: Answers = NONE,
                 **limits: object) -> None:  # fmt: skip
        """Serve the paths above, and each of `unary` and `streams` message by message."""
        self.engine = st.Engine(st.Limits(**limits), has_own_thread=has_own_thread)
        self._unary_answers, self._stream_answers = unary, streams
        self.port = self.engine.listen(
            address, unary=[*UNARY, *unary], streams=[*STREAMS, *streams], tls=tls
        )
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{self.port}"
        self.cancelled: list[str] = []
        self.num_calls = 0
        self.pause = threading.Event()
        self._later: list[tuple[float, tuple]] = []
        self._paths: dict[int, str] = {}
        self._remaining: dict[int, tuple[int, bytes]] = {}
        self._stop = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop = True
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.engine.close()
        if self._failure is not None:
            raise self._failure

    def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.cancelled, self.engine.counters())
            time.sleep(0.01)

    def _run(self) -> None:
        try:
            while not self._stop:
                if self.pause.is_set():
                    time.sleep(0.01)
                    continue
                self._turn()
        except BaseException as error:
            self._failure = error

    def _turn(self) -> None:
        calls, events = self.engine.take(20)
        now = time.monotonic()
        replies, messages, done_with = [], [], []
        for call in calls:
            self.num_calls += 1
            self._unary(call, replies)
        replies += [reply for at, reply in self._later if at <= now]
        self._later = [(at, reply) for at, reply in self._later if at > now]
        for event in events:
            self._event(event, replies, messages, done_with)
        if replies or messages or done_with:
            self.engine.flush(replies, messages, done_with)

    def _unary(self, call: tuple, replies: list) -> None:
        id, path, message, deadline, metadata, _ = call
        if path == ECHO:
            replies.append((id, message))
        elif path == SLEEP:
            self._later.append((time.monotonic() + float(message), (id, message)))
        elif path == FAIL:
            replies.append((id, 3, TEXT, TRAILERS, None))
        elif path == BLOB:
            # Blobs are flushed one by one, because a batch of them would hold much memory.
            self.engine.flush([(id, bytes(int(message)))])
        elif path == SHOW:
            left = "none" if deadline is None else f"{deadline - time.monotonic():.3f}"
            pairs = [("seen-" + key, value) for key, value in metadata.pairs()]
            replies.append((id, 0, "", [*pairs, ("left", left)], message))
        else:
            replies.append((id, self._unary_answers[path](message)))

    def _event(self, event: tuple, replies: list, messages: list, done_with: list) -> None:
        kind, id = event[:2]
        if kind == st.OPENED:
            self._paths[id] = event[2]
            self.engine.accept(id)
        elif kind == st.MESSAGE:
            path = self._paths.get(id)
            if path == SINK:
                return
            done_with.append((id, len(event[2])))
            if path == REPEAT:
                count, size = (int(part) for part in event[2].split(b"x"))
                self._remaining[id] = (count, bytes(size))
                self._repeat(id)
            elif event[2] == b"fail":
                replies.append((id, 5, "no such thing", None, None))
                self._paths.pop(id)
            else:
                answer = self._stream_answers.get(path)
                messages.append((id, answer(event[2]) if answer else event[2]))
        elif kind == st.HALF_CLOSED:
            if self._paths.get(id) not in (None, SINK, REPEAT):
                replies.append((id, 0, "", [("x-end", "yes")], None))
        elif kind == st.CANCELLED:
            self.cancelled.append(event[2])
            self._paths.pop(id, None)
            self._remaining.pop(id, None)
        elif kind == st.WRITABLE and id in self._remaining:
            self._repeat(id)

    # The handler sends until the queue is full, as one that waits for a slow reader.
    def _repeat(self, id: int) -> None:
        count, message = self._remaining[id]
        while count > 0:
            self.engine.flush([], [(id, message)])
            count -= 1
            self._remaining[id] = (count, message)
            if self.engine.unsent(id) >= 1 << 20:
                return
        del self._remaining[id]
        self.engine.flush([(id, 0, "", None, None)])


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def headers(path: str = ECHO, extra: tuple = ()) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
              ("content-type", "application/grpc"), ("te", "trailers"), *extra]  # fmt: skip
    return Encoder().encode(fields, huffman=False)


def message(payload: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + struct.pack(">I", len(payload)) + payload


Frame: TypeAlias = tuple[int, int, int, bytes]
"""Kind, flags, stream and payload."""


def ends_stream(frame: Frame) -> bool:
    kind, flags, _, _ = frame
    return kind in (DATA, HEADERS) and bool(flags & 1)


def parse_frames(data: bytes) -> list[Frame]:
    """Return the frames in some bytes; the last may be incomplete."""
    frames, at = [], 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        frames.append((data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return frames


class Raw:
    """A client that sends any bytes, even if they break the rules."""

    def __init__(self, port: int, settings: bytes = b"", receive_buffer: int | None = None,
                 waits: bool = True) -> None:  # fmt: skip
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # Nagle's algorithm would delay later parts by 40 ms for the acknowledgement of the first.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(5)
        self.socket.connect(("127.0.0.1", port))
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))
        # The server's windows apply once its first frames are acknowledged.
        data = b""
        while waits and WINDOW not in [kind for kind, _, _, _ in parse_frames(data)]:
            try:
                part = self.socket.recv(1 << 16)
            except OSError:
                part = b""
            if not part:
                break
            data += part
        self.send(frame(SETTINGS, 1, 0))
        self.socket.settimeout(5)

    def send(self, data: bytes) -> bool:
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def call(self, stream: int, payload: bytes, path: str = ECHO) -> bool:
        return self.send(frame(HEADERS, 4, stream, headers(path)) + frame(DATA, 1, stream, payload))

    def read(
        self, seconds: float = 0.5, last: Callable[[Frame], bool] = lambda frame: False
    ) -> tuple[list[Frame], bool]:
        """Return the frames up to a last one, and whether the server closed."""
        data, is_closed = b"", False
        self.socket.settimeout(seconds)
        try:
            while part := self.socket.recv(1 << 16):
                data += part
                if any(last(frame) for frame in parse_frames(data)):
                    return parse_frames(data), False
            is_closed = True
        except TimeoutError:
            pass
        except OSError:
            is_closed = True
        return parse_frames(data), is_closed

    def status(self, seconds: float = 5.0) -> str:
        """Return the first status."""
        return self._statuses(self.read(seconds, ends_stream)[0])[0]

    def statuses(self, seconds: float = 0.5) -> list[str]:
        """Return the values of grpc-status, and RST for resets."""
        return self._statuses(self.read(seconds)[0])

    @staticmethod
    def _statuses(frames: list[Frame]) -> list[str]:
        decoder, found = Decoder(), []
        for kind, _, _, payload in frames:
            if kind == HEADERS:
                fields = decoder.decode(payload)
                found += [value for key, value in fields if key == "grpc-status"]
            elif kind == RST:
                found.append("RST")
        return found

    def close(self) -> None:
        self.socket.close()


def goaway_codes(frames: list[Frame]) -> list[int]:
    return [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in frames if kind == GOAWAY]

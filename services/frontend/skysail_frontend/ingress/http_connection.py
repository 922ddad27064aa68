"""One HTTP connection: uvicorn's, with bounds on what a client may send and how long it may take.

connected ──head_timeout_s──► head ──body_timeout_s──► body ──► answered ──keep_alive_s──► closed
"""

import asyncio
import random
from http import HTTPStatus
from typing import Any, cast

import httptools
import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from skysail_common.clock import NEVER, Clock
from skysail_frontend.ingress.http_limits import HttpLimits, HttpMemory

_LINGER_S = 2.0
"""Time for which input is discarded after a refusal, so that the client can read why."""

_MAX_PIPELINED = 16
"""Requests that may wait for the answer to the one before."""

# Connections that are made together do not end together.
_MIN_AGE_FACTOR, _MAX_AGE_FACTOR = 0.9, 1.1

# Each part of a body is handled by itself: parts of a few bytes cost a hundred times as much.
_FREE_PARTS = 1024
_MIN_PART_BYTES = 64


class HttpConfig(uvicorn.Config):
    """What all connections of a server share."""

    limits: HttpLimits
    memory: HttpMemory
    clock: Clock
    busy_app: ASGIApp
    """Answers in place of the application if there are too many requests."""
    is_draining = False


class _Refusal(Exception):
    """What a client sends is refused before it is a request."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _end_of(max_age_s: float, now: float) -> float:
    """Return the instant from which a connection ends with its next answer."""
    factor = random.uniform(_MIN_AGE_FACTOR, _MAX_AGE_FACTOR)
    return now + factor * max_age_s if max_age_s else NEVER


class HttpConnection(HttpToolsProtocol):
    """A connection that answers, refuses or closes in bounded time and memory."""

    def __init__(
        self,
        config: HttpConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared = config
        self._limits = config.limits
        self._normal_app = self.app
        self._refusal: _Refusal | None = None
        self._running: RequestResponseCycle | None = None
        self._client_left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_ending = False
        self._is_leaving = False
        self._leaves_at = _end_of(config.limits.max_connection_age_s, config.clock())
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._num_unsent = 0
        # What the client owes: "head", "body" or nothing; and for which request the timer runs.
        self._owes = ""
        self._num_requests = 0
        self._timed = ("", 0)
        self._num_events = 0
        self._quiet_bytes = 0
        self._head_bytes = 0
        self._num_parts = 0
        self._body_bytes = 0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a connection beyond the limit is refused at once."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(
                503,
                "cannot take the connection: there are too many (http_max_connections); retry later",
            )
            return
        self._owes = "head"
        self._watch()
        if self._shared.is_draining:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything, and tell all who still answer that nobody reads it."""
        self._unset_keepalive_if_required()
        # uvicorn itself tells the newest request only, which may wait for the others.
        self.pipeline.clear()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        self._client_left.set_result(None)
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and hold it against the limits."""
        if self._is_ending:
            return
        self._unset_keepalive_if_required()
        num_events = self._num_events
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            cause = error.__context__ or error
            self._refuse_rest(self._refusal or _Refusal(400, f"cannot read the request: {cause}"))
            return
        self._quiet_bytes = self._quiet_bytes + len(data) if num_events == self._num_events else 0
        if self._quiet_bytes > self._limits.max_head_bytes:
            self._refuse_rest(self._head_too_large())
            return
        self._watch()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Java's client offers HTTP/2 with each first request. The parser takes what follows for
            # that protocol, and does not when it reads the same head without the offer. Requests in
            # a row are few, and so are the calls inside of each other.
            (end,) = upgrade.args
            self._parse(self._head_without_upgrade() + data[end:])

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % each for each in self.headers if each[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def pause_writing(self) -> None:
        """Bound how long, and with how much, a client that does not read its answer is kept."""
        super().pause_writing()
        self._release_unsent()
        self._num_unsent = self.transport.get_write_buffer_size()
        memory = self._shared.memory
        memory.num_unread_bytes += self._num_unsent
        if memory.is_clogged:
            self.transport.abort()
        else:
            timeout_s = self._limits.body_timeout_s
            self._write_timer = self.loop.call_later(timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that most of the answer is read."""
        super().resume_writing()
        self._release_unsent()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._num_events += 1
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._raise(429, "cannot take the request: too many wait on this connection")
        self._owes = "head"
        self._num_requests += 1
        self._head_bytes = self._num_parts = self._body_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._num_events += 1
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.max_head_bytes:
            self._raise_head()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer."""
        self._num_events += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.max_head_bytes:
            self._raise_head()
        if len(self.headers) >= self._limits.max_headers:
            limit = self._limits.max_headers
            text = f"cannot take the request: it has more than {limit} headers (http_max_headers)"
            self._raise(431, text)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._raise(400, "cannot serve CONNECT: this server is no proxy")
            # It is read once more.
            return
        scope = cast(dict[str, Any], self.scope)
        # The instant counts from here: while the loop is busy, handlers run much later.
        arrival = scope["arrival"] = self._shared.clock()
        scope["client_left"] = self._client_left
        is_busy = len(self.tasks) >= self._limits.max_requests
        self.app = cast(Any, self._shared.busy_app) if is_busy else self._normal_app
        super().on_headers_complete()
        self._owes = "body"
        if self._shared.is_draining or arrival >= self._leaves_at:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._num_events += 1
        self._num_parts += 1
        self._body_bytes += len(body)
        if self._num_parts > _FREE_PARTS + self._body_bytes // _MIN_PART_BYTES:
            text = f"cannot read the body: it comes in parts of less than {_MIN_PART_BYTES} bytes"
            self._raise(400, f"{text}; send larger chunks")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._num_events += 1
        if self._owes == "body":
            self._owes = ""
            super().on_message_complete()

    # What the server calls.

    def shutdown(self) -> None:
        """Close after the next answer, or when none is asked for within a grace.

        A client that sends while the server closes loses its query. The answer says
        `Connection: close`, so that a client which gets it sends nothing more.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif not self._is_leaving:
            self._is_leaving = True
            self._close_when_idle(self._limits.drain_idle_s)

    # Helpers.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _close_when_idle(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        close = self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(seconds, close)

    def _raise_head(self) -> None:
        refusal = self._head_too_large()
        self._raise(refusal.status, str(refusal))

    def _head_too_large(self) -> _Refusal:
        limit = self._limits.max_head_bytes
        text = f"cannot take the request: its head is larger than {limit} bytes (http_max_head_kib)"
        return _Refusal(431, text)

    def _raise(self, status: int, text: str) -> None:
        # The parser hides the exception behind one of its own.
        self._refusal = _Refusal(status, text)
        raise self._refusal

    def _watch(self) -> None:
        """Run the timer of what the client owes."""
        owed = (self._owes, self._num_requests)
        if owed != self._timed:
            self._timed = owed
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._owes == "head":
                self._timer = self.loop.call_later(self._limits.head_timeout_s, self._head_late)
            elif self._owes == "body":
                self._timer = self.loop.call_later(self._limits.body_timeout_s, self._body_late)
        is_idle = not self._owes and (self.cycle is None or self.cycle.response_complete)
        if is_idle and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            # Empty lines between requests do not keep a connection.
            self._close_when_idle(self.timeout_keep_alive)

    def _head_late(self) -> None:
        if self.cycle is None and not self._head_bytes:
            self.transport.close()
        else:
            seconds = self._limits.head_timeout_s
            text = f"cannot read the request: its head did not come within {seconds:g} s"
            self._refuse_rest(_Refusal(408, text))

    def _body_late(self) -> None:
        if self.pipeline:
            # Nothing was read while the request before was answered.
            self._timer = self.loop.call_later(self._limits.body_timeout_s, self._body_late)
            return
        seconds = self._limits.body_timeout_s
        text = f"cannot read the request: its body did not come within {seconds:g} s"
        self._refuse_rest(_Refusal(408, text))

    def _refuse_rest(self, refusal: _Refusal) -> None:
        """Refuse what the client sends, after the answers to the requests before it."""
        if self._owes == "body" and self.cycle.response_complete:
            # It has its answer and went on sending.
            self.transport.abort()
            return
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        unanswered = self.pipeline[0][0] if self.pipeline else self.cycle
        if unanswered is None or unanswered.response_complete:
            self._refuse(refusal.status, str(refusal))
        elif unanswered.more_body and unanswered.response_started:
            self.transport.abort()
        elif unanswered.more_body:
            self._refuse(refusal.status, str(refusal))
            unanswered.disconnected = True
            unanswered.message_event.set()
        else:
            # The refusal would be read as the answer to a request before.
            unanswered.keep_alive = False
            self._is_ending = True
            self._cancel_timers()

    def _refuse(self, status: int, text: str) -> None:
        """Answer with an error and close, once the client had time to read it."""
        self._is_ending = True
        self._cancel_timers()
        body = orjson.dumps({"error": text})
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *(["retry-after: 1"] if status == 503 else []),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            # Closed at once with input unread, the kernel resets the connection and the client
            # loses the answer.
            self.transport.write_eof()
            self._timer = self.loop.call_later(_LINGER_S, self.transport.abort)
        else:
            self.transport.close()

    def _cancel_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._release_unsent()

    def _release_unsent(self) -> None:
        self._shared.memory.num_unread_bytes -= self._num_unsent
        self._num_unsent = 0
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

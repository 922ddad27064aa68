"""An HTTP connection of uvicorn with bounds on the size and the time of requests.

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
"""Time for which input is discarded after a refusal, so that the client can read the refusal."""

_MAX_PIPELINED = 16
"""Largest number of requests that wait for earlier answers of their connection."""

# The jitter keeps connections with the same start from ending together.
_MIN_AGE_FACTOR, _MAX_AGE_FACTOR = 0.9, 1.1

# Each part of a body has its own event, so that parts of a few bytes cost a hundred times as much.
_FREE_PARTS = 1024
_MIN_PART_BYTES = 64


class HttpConfig(uvicorn.Config):
    """The shared state of all connections of a server."""

    limits: HttpLimits
    memory: HttpMemory
    clock: Clock
    busy_app: ASGIApp
    """Application that answers instead if too many requests are in flight."""
    is_draining = False


class _Refusal(Exception):
    """A refusal of input before it is a complete request."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _end_of(max_age_s: float, now: float) -> float:
    """Return the instant after which a connection ends with its next answer."""
    factor = random.uniform(_MIN_AGE_FACTOR, _MAX_AGE_FACTOR)
    return now + factor * max_age_s if max_age_s else NEVER


class HttpConnection(HttpToolsProtocol):
    """A connection with bounded time and memory for each request and answer."""

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
        # `_owes` is the awaited part of the client: "head", "body" or nothing. `_timed` is the part
        # and the request of the running timer.
        self._owes = ""
        self._num_requests = 0
        self._timed = ("", 0)
        self._num_events = 0
        self._quiet_bytes = 0
        self._head_bytes = 0
        self._num_parts = 0
        self._body_bytes = 0

    # Callbacks of asyncio.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the connection; refuse it if there are too many."""
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
        """Release all resources, and notify the handlers that the client disconnected."""
        self._unset_keepalive_if_required()
        # uvicorn itself notifies only the newest request, which may wait for earlier ones.
        self.pipeline.clear()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        self._client_left.set_result(None)
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse input and check it against the limits."""
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
            # Java's client offers HTTP/2 with its first request. The parser would treat the rest as
            # that protocol, but not if it reads the head again without the offer. The recursion is
            # shallow, because few requests are pipelined.
            (end,) = upgrade.args
            self._parse(self._head_without_upgrade() + data[end:])

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % each for each in self.headers if each[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def pause_writing(self) -> None:
        """Bound the time and memory of a client that does not read its answer."""
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
        """Stop the timer after the client has read most of the answer."""
        super().resume_writing()
        self._release_unsent()

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        """Start a request."""
        self._num_events += 1
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._raise(429, "cannot take the request: too many wait on this connection")
        self._owes = "head"
        self._num_requests += 1
        self._head_bytes = self._num_parts = self._body_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Handle a part of the request target."""
        self._num_events += 1
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.max_head_bytes:
            self._raise_head()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handle a header or a trailer."""
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
        """Start the handler of the request."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._raise(400, "cannot serve CONNECT: this server is not a proxy")
            # `_parse` reads the head again.
            return
        scope = cast(dict[str, Any], self.scope)
        # The arrival is measured here, because a busy loop runs the handler much later.
        arrival = scope["arrival"] = self._shared.clock()
        scope["client_left"] = self._client_left
        is_busy = len(self.tasks) >= self._limits.max_requests
        self.app = cast(Any, self._shared.busy_app) if is_busy else self._normal_app
        super().on_headers_complete()
        self._owes = "body"
        if self._shared.is_draining or arrival >= self._leaves_at:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Handle a part of the body."""
        self._num_events += 1
        self._num_parts += 1
        self._body_bytes += len(body)
        if self._num_parts > _FREE_PARTS + self._body_bytes // _MIN_PART_BYTES:
            text = f"cannot read the body: it comes in parts of less than {_MIN_PART_BYTES} bytes"
            self._raise(400, f"{text}; send larger chunks")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Handle the end of the request."""
        self._num_events += 1
        if self._owes == "body":
            self._owes = ""
            super().on_message_complete()

    # Callbacks of the server.

    def shutdown(self) -> None:
        """Close after the next answer, or after a grace period without a request.

        A query that arrives during the close would be lost. The answer therefore says
        `Connection: close`, after which a client sends no further query.
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
        # The parser wraps the exception in its own.
        self._refusal = _Refusal(status, text)
        raise self._refusal

    def _watch(self) -> None:
        """Run the timer of the awaited part of the client."""
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
            # Empty lines between requests do not keep a connection alive.
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
            # The server read nothing while it answered the previous request, so the client gets more
            # time.
            self._timer = self.loop.call_later(self._limits.body_timeout_s, self._body_late)
            return
        seconds = self._limits.body_timeout_s
        text = f"cannot read the request: its body did not come within {seconds:g} s"
        self._refuse_rest(_Refusal(408, text))

    def _refuse_rest(self, refusal: _Refusal) -> None:
        """Refuse the input of the client, after the answers to its earlier requests."""
        if self._owes == "body" and self.cycle.response_complete:
            # The client continues to send after its answer.
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
            # The client would take the refusal for the answer to an earlier request.
            unanswered.keep_alive = False
            self._is_ending = True
            self._cancel_timers()

    def _refuse(self, status: int, text: str) -> None:
        """Answer with an error, and close once the client has had time to read it."""
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
            # A close with unread input makes the kernel reset the connection, and the client loses
            # the answer.
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

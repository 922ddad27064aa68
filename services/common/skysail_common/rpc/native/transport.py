"""The transport contract (`rpc.contract`) on skysail-transport; a call needs no task or thread.

    loop: engine is readable ──► take() ──► handlers, observers ──► at the end ──► flush(…)

Servers and links share one engine. Messages of a turn of the loop leave at its end, in one call of
the engine.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import skysail_transport
from skysail_transport import Engine, Limits

from skysail_common.clock import MONOTONIC, NEVER, Clock
from skysail_common.errors import Unavailable
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.channels import LINK_TIMEOUT_S, MAX_LINK_MESSAGE_BYTES, link_refused
from skysail_common.rpc.contract import (
    NO_LATE_HANDLERS,
    Connector,
    LateHandler,
    Link,
    LinkObserver,
    Metadata,
    Server,
    StreamHandler,
    UnaryHandler,
)
from skysail_common.rpc.native.calls import NativeCall, NativeLink, NativeStream
from skysail_common.rpc.native.outgoing import TURNED_AWAY, WELL, Ending, Outgoing, ending_of
from skysail_common.rpc.native.server import NativeServer
from skysail_common.rpc.reflection import reflection_streams
from skysail_common.rpc.statuses import as_skysail_error, handle

log = logging.getLogger(__name__)

_LONGEST_TURN_S = 0.002
"""Longest time for handling calls in a turn of the loop; the rest waits for the next turn."""
_LONGEST_WAIT = 0.4
"""Largest share of its budget that a call may wait for its handler."""
_MAX_TAKEN = 20_000
"""Largest number of calls that wait for their handlers."""
_CLOCK_EVERY = 16
_LARGE_BYTES = 64 * 1024
"""Size of a message that makes the transport read the clock after its handler."""


class NativeTransport:
    """One engine with its calls, streams and links, on one event loop."""

    name = "native"

    def __init__(
        self,
        max_message_bytes: int,
        max_connection_age_s: float = 0.0,
        clock: Clock = MONOTONIC,
    ) -> None:
        """Start an engine without listeners and links.

        Args:
            max_message_bytes: Largest message of a client.
            max_connection_age_s: See `rpc.transports.open_transport`.
            clock: Clock of arrivals and turns.
        """
        self._clock = clock
        self._num_turned_away = 0
        self._taken: deque[tuple[Any, ...]] = deque()
        """Calls that wait for their handlers, in order of arrival."""
        self._is_handling_due = False
        self._gone: set[int] = set()
        """Calls that were cancelled while they waited for their handlers."""
        self._loop = asyncio.get_running_loop()
        limits = Limits(
            max_message_bytes=max_message_bytes,
            max_link_message_bytes=MAX_LINK_MESSAGE_BYTES,
            max_connection_age_s=max_connection_age_s,
        )
        self._engine = Engine(limits)
        self._tasks = BackgroundTasks()
        self._unary: dict[str, UnaryHandler] = {}
        self._late: dict[str, LateHandler] = {}
        self._handlers: dict[str, StreamHandler] = {}
        self._cancels: dict[int, Callable[[], None]] = {}
        self._streams: dict[int, NativeStream] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._links: dict[int, NativeLink] = {}
        self._outgoing = Outgoing(self._engine)
        self._is_flush_due = False
        self._is_in_turn = False
        self._at_end: list[Callable[[], None]] = []
        self._events: dict[int, Callable[..., None]] = {
            skysail_transport.OPENED: self._opened,
            skysail_transport.MESSAGE: self._received,
            skysail_transport.HALF_CLOSED: self._half_closed,
            skysail_transport.CANCELLED: self._cancelled,
            skysail_transport.ACCEPTED: self._link_accepted,
            skysail_transport.CLOSED: self._link_closed,
            skysail_transport.WRITABLE: self._writable,
        }
        self._loop.add_reader(self._engine.fileno(), self._turn)

    def server(
        self,
        services: Sequence[str],
        unary: Mapping[str, UnaryHandler],
        streams: Mapping[str, StreamHandler],
        *,
        late: Mapping[str, LateHandler] = NO_LATE_HANDLERS,
        shares_port: bool = False,
        certificates: ServerCertificates | None = None,
    ) -> Server:
        """Return a server (see `rpc.contract.Transport`)."""
        streams = {**streams, **reflection_streams(services)}
        self._unary.update(unary)
        self._late.update(late)
        self._handlers.update(streams)
        return NativeServer(
            self._engine,
            self._num_open,
            self._cut_off,
            services,
            unary=list(unary),
            streams=list(streams),
            shares_port=shares_port,
            certificates=certificates,
        )

    @property
    def connect(self) -> Connector:
        """The function that opens links."""
        return self._connect

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` at the end of this turn, before its messages leave."""
        if self._is_in_turn:
            self._at_end.append(callback)
        else:
            self._loop.call_soon(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `callback` after `delay` seconds."""
        return self._loop.call_later(delay, callback)

    def counters(self) -> Mapping[str, int]:
        """Return the counters of the engine and of refused calls, by name."""
        return {**self._engine.counters(), "turned_away": self._num_turned_away}

    def _num_open(self) -> int:
        counters = self._engine.counters()
        return counters["open_calls"] - len(self._links) + (counters["unsent_bytes"] > 0)

    def _cut_off(self) -> None:
        """End every call and stream of peers that is in flight."""
        ending = ending_of(Unavailable("the server stops"))
        for call_id, callback in list(self._cancels.items()):
            callback()
            self.end(call_id, ending)
        for stream_id, serving in list(self._serving.items()):
            serving.cancel()
            self.end(stream_id, ending)
        self._flush()

    def close(self) -> None:
        """Close every listener, connection and link."""
        self._flush()
        self._loop.remove_reader(self._engine.fileno())
        for serving in self._serving.values():
            serving.cancel()
        self._engine.close()

    async def _connect(
        self, endpoint: str, path: str, observer: LinkObserver, metadata: Metadata = ()
    ) -> Link:
        link = NativeLink(self, observer, endpoint)
        try:
            link.stream_id = self._engine.open(endpoint, path, metadata)
        except (OSError, ValueError) as error:
            raise link_refused(endpoint, error) from error
        self._links[link.stream_id] = link
        try:
            await asyncio.wait_for(link.wait_until_accepted(), LINK_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            link.close()
            raise link_refused(endpoint, "no answer in time") from error
        except asyncio.CancelledError:
            link.close()
            raise
        return link

    # Events of the engine.

    def _turn(self) -> None:
        try:
            calls, events = self._engine.take()
        except OSError as error:
            raise self._failed(error) from error
        self._is_in_turn = self._is_flush_due = True
        try:
            self._taken.extend(calls)
            # Results come first, so that freed replicas need not wait for new calls.
            self._handle_events(events)
            if not self._is_handling_due:
                self._handle_calls()
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        at_end, self._at_end = self._at_end, []
        for callback in at_end:
            try:
                callback()
            except Exception:
                # The failure of one callback must not prevent the other callbacks of the turn.
                log.exception("unhandled exception in callback")
        at_end, self._at_end = self._at_end, []
        self._is_in_turn = False
        for callback in at_end:
            # A callback in another turn must run after the events that arrive until then. The loop
            # polls descriptors only after callbacks that a descriptor's callback has scheduled.
            self._loop.call_soon(self._loop.call_soon, callback)
        self._flush()

    def _go_on(self) -> None:
        """Handle waiting calls in a separate turn."""
        self._is_handling_due = False
        self._is_in_turn = self._is_flush_due = True
        try:
            self._handle_calls()
        finally:
            self._end_turn()

    def _handle_events(self, events: Sequence[tuple[Any, ...]]) -> None:
        for kind, *event in events:
            try:
                self._events[kind](*event)
            except Exception:
                # The failure of one stream must not prevent the events of the others.
                log.exception("unhandled exception in event handler", extra={"event": kind})

    def _handle_calls(self) -> None:
        """Handle waiting calls in order; continue in the next turn if that takes too long."""
        now = self._clock()
        end = now + _LONGEST_TURN_S
        taken = self._taken
        number = 0
        while taken:
            call_id, path, message, deadline, headers, arrival = taken.popleft()
            number += 1
            if call_id in self._gone:
                self._gone.discard(call_id)
                continue
            until = NEVER if deadline is None else deadline
            call = NativeCall(self, call_id, path, message, until, headers, arrival)
            age_s = now - arrival
            if age_s > _LONGEST_TURN_S and self._is_late(age_s, until - arrival):
                self._turn_away(call_id, call)
            else:
                handle(self._unary[path], call)
            if not number % _CLOCK_EVERY or len(message) > _LARGE_BYTES:
                now = self._clock()
            if now > end and taken:
                # New events are handled first, and batches leave.
                self._is_handling_due = True
                self._loop.call_soon(self._go_on)
                return
        self._gone.clear()

    def _is_late(self, age_s: float, budget_s: float) -> bool:
        """Return whether a call waited for a large part of its budget, or behind too many others.

        The process then receives more calls than it can handle, and in order all would be late.
        """
        return age_s > _LONGEST_WAIT * budget_s or len(self._taken) >= _MAX_TAKEN

    def _turn_away(self, call_id: int, call: NativeCall) -> None:
        """Answer a call as cheaply as possible."""
        self._num_turned_away += 1
        late = self._late.get(call.method)
        if late is None or handle(late, call) is False:
            self.end(call_id, TURNED_AWAY)

    def _opened(self, stream_id: int, path: str, deadline: float | None, headers: Any) -> None:
        until = NEVER if deadline is None else deadline
        stream = self._streams[stream_id] = NativeStream(self, stream_id, path, until, headers)
        serving = self._tasks.start(self._serve(stream_id, stream), "stream")
        self._serving[stream_id] = serving
        # The callback is outside the task, because a task that is cancelled early never runs.
        serving.add_done_callback(lambda _: self._forget(stream_id))

    def _forget(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)
        self._serving.pop(stream_id, None)

    async def _serve(self, stream_id: int, stream: NativeStream) -> None:
        try:
            await self._handlers[stream.method](stream)
        except Exception as error:
            self.end(stream_id, ending_of(as_skysail_error(error, stream.method)))
        else:
            self.end(stream_id, WELL)

    def _received(self, stream_id: int, message: bytes, arrival: float) -> None:
        link = self._links.get(stream_id)
        if link is not None:
            link.received(message)
        elif (stream := self._streams.get(stream_id)) is not None:
            stream.received(message, arrival)

    def _half_closed(self, stream_id: int) -> None:
        if (stream := self._streams.get(stream_id)) is not None:
            stream.ended()

    def _cancelled(self, call_id: int, reason: str) -> None:
        if (callback := self._cancels.pop(call_id, None)) is not None:
            callback()
        elif (serving := self._serving.get(call_id)) is not None:
            serving.cancel()
        elif self._taken:
            # The call waits for its handler or is answered; `_handle_calls` clears both ids.
            self._gone.add(call_id)

    def _writable(self, stream_id: int) -> None:
        if (stream := self._streams.get(stream_id)) is not None:
            stream.writable()

    def _link_accepted(self, stream_id: int, *_: Any) -> None:
        if (link := self._links.get(stream_id)) is not None:
            link.accepted()

    def _link_closed(self, stream_id: int, status: int, text: str, *_: Any) -> None:
        if (link := self._links.pop(stream_id, None)) is not None:
            link.closed(status, text)

    # The outbox of calls, streams and links (see `calls.Outbox`).

    def reply(self, call_id: int, message: bytes) -> None:
        """Answer a call with OK."""
        self._cancels.pop(call_id, None)
        self._outgoing.reply(call_id, message)
        self._flush_soon()

    def end(self, call_id: int, ending: Ending) -> None:
        """End a call or a stream with a status."""
        self._cancels.pop(call_id, None)
        self._outgoing.end(call_id, ending)
        self._flush_soon()

    def send(self, stream_id: int, message: bytes) -> None:
        """Send a message on a stream or a link."""
        self._outgoing.send(stream_id, message)
        self._flush_soon()

    def accept(self, stream_id: int) -> None:
        """Accept a stream of a peer."""
        self._engine.accept(stream_id)
        self._flush_soon()

    def acknowledge(self, stream_id: int, num_bytes: int) -> None:
        """Extend the flow-control window of a stream by a number of bytes."""
        self._outgoing.acknowledge(stream_id, num_bytes)
        self._flush_soon()

    def unsent_bytes(self, stream_id: int) -> int:
        """Send the queued messages, and return how many bytes the peer has not accepted."""
        self._flush()
        return self._engine.unsent(stream_id)

    def cancel(self, stream_id: int) -> None:
        """Cancel a link."""
        self._links.pop(stream_id, None)
        self._engine.cancel(stream_id)
        self._flush_soon()

    def watch_cancel(self, call_id: int, callback: Callable[[], None]) -> None:
        """Call `callback` if the caller cancels before the answer."""
        self._cancels[call_id] = callback

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        try:
            self._outgoing.flush()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> SystemExit:
        """Return the exit for a failed engine, after which the supervisor restarts the process."""
        log.critical("transport failed", exc_info=error)
        return SystemExit(1)

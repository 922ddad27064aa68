"""The contract between the query path and a gRPC transport; messages are bytes.

A handler is an ordinary function on the event loop. It returns at once. The answer may come later,
from the same loop. A call needs no task and no future.

    transport ──► handler(call) ──► core … later … ──► call.reply(bytes) | call.fail(error)
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from skysail_common.errors import SkysailError
from skysail_common.rpc.certificates import ServerCertificates

Metadata = Sequence[tuple[str, str | bytes]]
"""Key-value pairs; the value is bytes if the key ends in `-bin`."""


class Call(Protocol):
    """A unary call that awaits its answer."""

    method: str
    """Full path, such as `/skysail.v1.QueryService/Predict`."""
    message: bytes
    """The serialized request."""
    deadline: float
    """Instant of the monotonic clock by which the caller wants the answer; `NEVER` for none."""
    arrival: float
    """Instant of the monotonic clock at which the call was complete.

    The native transport uses the last read of the connection before the call was complete; it counts
    the deadline from the read that brought the headers. grpc.aio shows a call only when its handler
    starts, so that its arrival is that instant.
    """

    def metadata(self) -> Mapping[str, str | bytes]:
        """Return the metadata of the request; a repeated key has its last value."""
        ...

    def reply(self, message: bytes, trailers: Metadata = ()) -> None:
        """Answer the call.

        Only the first `reply` or `fail` has an effect, and none after the caller has gone.
        """
        ...

    def fail(self, error: SkysailError, trailers: Metadata = ()) -> None:
        """Answer with an error."""
        ...

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` once if the caller cancels before the answer."""
        ...


class Stream(Protocol):
    """A bidirectional stream on the server side; its iteration yields the messages of the client."""

    method: str
    deadline: float
    arrival: float
    """Arrival of the message that was yielded last; 0 before the first.

    The native transport uses the last read of the connection before the message was complete, and
    grpc.aio the instant at which it yields the message.
    """

    def metadata(self) -> Mapping[str, str | bytes]:
        """Return the metadata of the request; a repeated key has its last value."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield each message until the client half-closes the stream."""
        ...

    async def accept(self) -> None:
        """Accept the stream before its first answer, so that the client knows it is served."""
        ...

    async def send(self, message: bytes) -> None:
        """Send a message; wait while the client reads too slowly."""
        ...


UnaryHandler = Callable[[Call], None]
LateHandler = Callable[[Call], bool]
"""A handler of a call that is too late for its ordinary handler; it must be cheap.

It returns whether it answered. The transport refuses an unanswered call as `Overloaded`.
"""
StreamHandler = Callable[[Stream], Awaitable[None]]
"""A handler of one stream; its return ends the stream with OK, its `SkysailError` with the error."""


NO_LATE_HANDLERS: Mapping[str, LateHandler] = MappingProxyType({})


class Server(Protocol):
    """A server of handlers, health and reflection on one address."""

    def bind(self, address: str) -> int:
        """Bind to `host:port` or `unix:/path` and return the port (0 for a unix socket).

        The server answers calls after `start`.

        Raises:
            FailedPrecondition: the address is in use or cannot be bound.
        """
        ...

    async def start(self) -> None:
        """Start to answer calls; health is NOT_SERVING until `set_serving`."""
        ...

    async def set_serving(self, is_serving: bool) -> None:
        """Set the health of the services: whether they accept calls."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let calls in flight end within `grace_s`, and close."""
        ...


class Link(Protocol):
    """A bidirectional stream on the client side."""

    def send(self, message: bytes) -> None:
        """Queue a message, which leaves in this turn of the loop; do nothing on a closed link.

        The caller bounds the number of messages in flight.
        """
        ...

    def close(self) -> None:
        """End the stream; the observer gets no further calls."""
        ...


class LinkObserver(Protocol):
    """An observer of a `Link`; the event loop calls its methods."""

    def link_received(self, message: bytes) -> None:
        """Handle a message of the peer."""
        ...

    def link_closed(self, reason: str, has_died: bool) -> None:
        """Handle the end of the stream, the last event; `Link.close` does not cause this call.

        Args:
            reason: Cause, for people.
            has_died: False if the peer ended the stream with OK.
        """
        ...


class Connector(Protocol):
    """A function that opens links."""

    def __call__(
        self, endpoint: str, path: str, observer: LinkObserver, metadata: Metadata = ()
    ) -> Awaitable[Link]:
        """Open a link, and return it once the peer has accepted the stream.

        Args:
            endpoint: Endpoint of the peer, as `unix:/path` or `host:port`.
            path: Full path of the method.
            observer: Observer of the link.
            metadata: Metadata of the request.

        Raises:
            Unavailable: the peer cannot be reached or does not accept in time.
            FailedPrecondition: the peer refuses with that status; a retry will not help.
        """
        ...


class Transport(Protocol):
    """A transport of gRPC calls: it makes servers and opens links."""

    name: str
    """Name of the transport in the setting."""

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
        """Return a server; its `bind` opens the address.

        Args:
            services: Full names of the services, for reflection and health.
            unary: Handlers of unary calls, by path.
            streams: Handlers of streams, by path.
            late: Handlers of unary calls that waited for too much of their time, by path; only
                the native transport uses them.
            shares_port: True to share the port with other processes.
            certificates: Certificates of TLS; no TLS if None. A renewal applies to new connections.
        """
        ...

    @property
    def connect(self) -> Connector:
        """The function that opens links."""
        ...

    def call_soon(self, callback: Callable[[], None]) -> object:
        """Call `callback` at the end of this turn, before its messages leave."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `callback` after `delay` seconds."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Return the counters since the start, by name; empty if the transport has none."""
        ...

    def close(self) -> None:
        """Close all listeners, connections and links."""
        ...

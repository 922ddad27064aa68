"""What the query path knows of gRPC: bytes in, bytes out, and no word about who carries them.

A handler is an ordinary function of the event loop. It returns at once; the answer may come
later, from the same loop. No task and no future is needed for a call.

    transport ──► handler(call) ──► core … later … ──► call.reply(bytes) | call.fail(error)
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from skysail_common.errors import SkysailError
from skysail_common.rpc.certificates import ServerCertificates

Metadata = Sequence[tuple[str, str | bytes]]
"""Key-value pairs; the value is bytes where the key ends in `-bin`."""


class Call(Protocol):
    """A unary call that awaits its answer."""

    method: str
    """Full path, such as `/skysail.v1.QueryService/Predict`."""
    message: bytes
    """The request, as it came."""
    deadline: float
    """Instant of the monotonic clock by which the caller wants the answer; `NEVER` for none."""
    arrival: float
    """Instant of the monotonic clock at which the whole call had come.

    The native transport takes the last read of the connection before the call was whole; it counts
    the deadline from the read that brought the headers. grpc.aio tells nothing before the handler
    begins, so that its arrival is that instant.
    """

    def metadata(self) -> Mapping[str, str | bytes]:
        """Return the metadata of the request; where a key came twice, its last value."""
        ...

    def reply(self, message: bytes, trailers: Metadata = ()) -> None:
        """Answer.

        Only the first of all `reply` and `fail` counts, and to a caller that has gone away none.
        """
        ...

    def fail(self, error: SkysailError, trailers: Metadata = ()) -> None:
        """Answer with an error."""
        ...

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, once, if the caller goes away before the answer."""
        ...


class Stream(Protocol):
    """A bidirectional stream, server side. Iterating it yields the messages of the client."""

    method: str
    deadline: float
    arrival: float
    """Instant at which the message that was yielded last came; 0 before the first.

    The native transport takes the last read of the connection before the message was whole, and
    grpc.aio the instant at which the message is yielded.
    """

    def metadata(self) -> Mapping[str, str | bytes]:
        """Return the metadata of the request; where a key came twice, its last value."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield each message; ends when the client has sent its last."""
        ...

    async def accept(self) -> None:
        """Have the client told that the stream is served, before there is a message for it."""
        ...

    async def send(self, message: bytes) -> None:
        """Send a message; waits while the client reads slower than it is sent to."""
        ...


UnaryHandler = Callable[[Call], None]
LateHandler = Callable[[Call], bool]
"""Answers a call that comes too late to be handled, if it has an answer at little cost.

Returns whether it answered; a call that it did not answer is refused as `Overloaded`.
"""
StreamHandler = Callable[[Stream], Awaitable[None]]
"""Serves one stream; its return ends the stream well, a `SkysailError` ends it with that."""


NO_LATE_HANDLERS: Mapping[str, LateHandler] = MappingProxyType({})


class Server(Protocol):
    """Serves handlers, and with them health and reflection, on one address."""

    def bind(self, address: str) -> int:
        """Take `host:port` or `unix:/path` and return the port (0 for a unix socket).

        Calls are answered after `start`.

        Raises:
            FailedPrecondition: the address is in use or cannot be bound.
        """
        ...

    async def start(self) -> None:
        """Begin to answer calls; health says NOT_SERVING until `set_serving`."""
        ...

    async def set_serving(self, is_serving: bool) -> None:
        """Say by health whether the services take calls."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Accept no call any more, let those under way end within `grace_s`, and close."""
        ...


class Link(Protocol):
    """A bidirectional stream, client side."""

    def send(self, message: bytes) -> None:
        """Queue a message; it leaves in this turn of the loop.

        The caller bounds what is under way. Does nothing once the link is closed.
        """
        ...

    def close(self) -> None:
        """End the stream and call no observer any more."""
        ...


class LinkObserver(Protocol):
    """Is told what happens on a `Link`; each method is called by the event loop."""

    def link_received(self, message: bytes) -> None:
        """A message came."""
        ...

    def link_closed(self, reason: str, has_died: bool) -> None:
        """The stream ended; nothing comes after it. Not called after `Link.close`.

        Args:
            reason: Why, for people.
            has_died: False where the peer ended the stream in good order.
        """
        ...


class Connector(Protocol):
    """Opens links."""

    def __call__(
        self, endpoint: str, path: str, observer: LinkObserver, metadata: Metadata = ()
    ) -> Awaitable[Link]:
        """Return an open link: the peer has accepted the stream.

        Args:
            endpoint: Such as `unix:/path` or `host:port`.
            path: Full path of the method.
            observer: Is told what happens.
            metadata: Sent to the peer with the path.

        Raises:
            Unavailable: the peer cannot be reached or does not accept in time.
            FailedPrecondition: the peer refuses with that status; another attempt will not help.
        """
        ...


class Transport(Protocol):
    """Carries calls: serves them, and opens links."""

    name: str
    """As the setting calls it."""

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
        """Return a server that listens nowhere yet.

        Args:
            services: Full names of the services, for reflection and health.
            unary: Handlers of unary calls, by path.
            streams: Handlers of streams, by path.
            late: Handlers of unary calls that waited for too much of their time, by path; only
                the native transport turns such calls away.
            shares_port: True to listen beside other processes on the same port.
            certificates: What it shows, over TLS; in the clear if None. New connections see
                what they are renewed to.
        """
        ...

    @property
    def connect(self) -> Connector:
        """Opens links."""
        ...

    def call_soon(self, callback: Callable[[], None]) -> object:
        """Call back at the end of this turn, before what was said in it leaves."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back after `delay` seconds."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Return what it has counted since it began, by name; empty where it does not count."""
        ...

    def close(self) -> None:
        """Close what is still open."""
        ...

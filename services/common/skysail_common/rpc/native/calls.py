"""Calls, streams and links of the native transport, which implement the contract."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from skysail_transport import Metadata as Headers

from skysail_common.errors import SkysailError
from skysail_common.rpc.channels import link_refused
from skysail_common.rpc.contract import LinkObserver, Metadata
from skysail_common.rpc.native.outgoing import Ending, ending_of

_HIGH_BYTES = 1024 * 1024
"""Unsent bytes for a slow peer from which on `send` waits."""


class Outbox(Protocol):
    """Outgoing messages and endings of calls, which leave at the end of the turn."""

    def reply(self, call_id: int, message: bytes) -> None:
        """Answer a call with OK."""
        ...

    def end(self, call_id: int, ending: Ending) -> None:
        """End a call or a stream with a status."""
        ...

    def send(self, stream_id: int, message: bytes) -> None:
        """Send a message on a stream or a link."""
        ...

    def accept(self, stream_id: int) -> None:
        """Accept a stream of a peer."""
        ...

    def acknowledge(self, stream_id: int, num_bytes: int) -> None:
        """Extend the flow-control window of a stream by a number of bytes."""
        ...

    def unsent_bytes(self, stream_id: int) -> int:
        """Send the queued messages, and return how many bytes the peer has not accepted."""
        ...

    def cancel(self, stream_id: int) -> None:
        """Cancel a link."""
        ...

    def watch_cancel(self, call_id: int, callback: Callable[[], None]) -> None:
        """Call `callback` if the caller cancels before the answer."""
        ...


class NativeCall:
    """A unary call."""

    __slots__ = (
        "_headers",
        "_id",
        "_is_answered",
        "_outbox",
        "arrival",
        "deadline",
        "message",
        "method",
    )

    def __init__(
        self,
        outbox: Outbox,
        call_id: int,
        method: str,
        message: bytes,
        deadline: float,
        headers: Headers,
        arrival: float,
    ) -> None:
        self.method = method
        self.message = message
        self.deadline = deadline
        self.arrival = arrival
        self._outbox = outbox
        self._id = call_id
        self._headers = headers
        self._is_answered = False

    def metadata(self) -> Mapping[str, str | bytes]:
        """Return the metadata of the request."""
        return self._headers.as_dict()

    def reply(self, message: bytes, trailers: Metadata = ()) -> None:
        """Answer the call."""
        if self._is_answered:
            return
        self._is_answered = True
        if trailers:
            self._outbox.end(self._id, (0, "", trailers, message))
        else:
            self._outbox.reply(self._id, message)

    def fail(self, error: SkysailError, trailers: Metadata = ()) -> None:
        """Answer with an error."""
        if not self._is_answered:
            self._is_answered = True
            self._outbox.end(self._id, ending_of(error, trailers))

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` if the caller cancels before the answer."""
        if not self._is_answered:
            self._outbox.watch_cancel(self._id, callback)


class NativeStream:
    """A stream that a peer opened."""

    def __init__(
        self,
        outbox: Outbox,
        stream_id: int,
        method: str,
        deadline: float,
        headers: Headers,
    ) -> None:
        self.method = method
        self.deadline = deadline
        self.arrival = 0.0
        self._outbox = outbox
        self._id = stream_id
        self._headers = headers
        self._messages: deque[tuple[bytes, float]] = deque()
        self._has_ended = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._sent_bytes = 0

    def metadata(self) -> Mapping[str, str | bytes]:
        """Return the metadata of the request."""
        return self._headers.as_dict()

    async def accept(self) -> None:
        """Accept the stream, so that the client knows it is served."""
        self._outbox.accept(self._id)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._messages:
                message, self.arrival = self._messages.popleft()
                # A message is acknowledged when it is read, so that an unread stream cannot grow.
                self._outbox.acknowledge(self._id, len(message))
                yield message
            if self._has_ended:
                return
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader

    async def send(self, message: bytes) -> None:
        """Send a message; wait while the client reads too slowly."""
        self._outbox.send(self._id, message)
        self._sent_bytes += len(message)
        if self._sent_bytes < _HIGH_BYTES // 16:
            return
        self._sent_bytes = 0
        if self._outbox.unsent_bytes(self._id) >= _HIGH_BYTES:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    def received(self, message: bytes, arrival: float) -> None:
        """Queue a message of the peer."""
        self._messages.append((message, arrival))
        _wake(self._reader)

    def ended(self) -> None:
        """Handle the half-close of the peer."""
        self._has_ended = True
        _wake(self._reader)

    def writable(self) -> None:
        """Resume `send` after the peer has read."""
        _wake(self._writer)


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class NativeLink:
    """A stream that this process opened."""

    def __init__(self, outbox: Outbox, observer: LinkObserver, endpoint: str) -> None:
        self._outbox = outbox
        self._observer: LinkObserver | None = observer
        self._endpoint = endpoint
        self._accepting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stream_id = 0

    async def wait_until_accepted(self) -> None:
        """Return once the peer has accepted the stream.

        Raises:
            Unavailable: the peer cannot be reached or refuses.
            FailedPrecondition: the peer refuses with that status.
        """
        await self._accepting

    def send(self, message: bytes) -> None:
        """Queue a message; do nothing on a closed link."""
        if self._observer is not None:
            self._outbox.send(self.stream_id, message)

    def close(self) -> None:
        """End the stream; the observer gets no further calls."""
        if self._observer is not None:
            self._observer = None
            self._outbox.cancel(self.stream_id)

    def accepted(self) -> None:
        """Complete `wait_until_accepted`."""
        _wake(self._accepting)

    def received(self, message: bytes) -> None:
        """Pass a message of the peer to the observer."""
        if self._observer is not None:
            self._observer.link_received(message)

    def closed(self, status: int, text: str) -> None:
        """Report the end of the stream to the observer, or to `wait_until_accepted`."""
        reason = text or "the stream ended"
        if not self._accepting.done():
            self._accepting.set_exception(link_refused(self._endpoint, reason, status))
            return
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.link_closed(reason, status != 0)

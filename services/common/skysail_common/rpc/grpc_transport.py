"""The transport contract (`rpc.contract`) on grpc.aio."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import grpc
import grpc.aio

from skysail_common.clock import MONOTONIC, NEVER
from skysail_common.errors import SkysailError
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.channels import (
    LINK_TIMEOUT_S,
    MAX_LINK_MESSAGE_BYTES,
    link_refused,
    open_channel,
)
from skysail_common.rpc.contract import (
    NO_LATE_HANDLERS,
    Connector,
    LateHandler,
    Link,
    LinkObserver,
    Metadata,
    Server,
    Stream,
    StreamHandler,
    UnaryHandler,
)
from skysail_common.rpc.grpc_server import GrpcServer
from skysail_common.rpc.statuses import abort, as_skysail_error, handle

log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[bytes, bytes]


def _deadline_of(context: _Context) -> float:
    remaining = context.time_remaining()
    # The remaining time of a call without a deadline is None or very long.
    return NEVER if remaining is None or remaining > 1e9 else MONOTONIC() + remaining


def _metadata_of(context: _Context) -> Mapping[str, str | bytes]:
    return dict(cast(Any, context.invocation_metadata()) or ())


class _GrpcCall:
    __slots__ = (
        "_answer",
        "_cancel",
        "_context",
        "_waiter",
        "arrival",
        "deadline",
        "message",
        "method",
    )

    def __init__(self, method: str, message: bytes, context: _Context) -> None:
        self.method = method
        self.message = message
        self.arrival = MONOTONIC()
        self.deadline = _deadline_of(context)
        self._context = context
        self._answer: tuple[bytes | None, SkysailError | None, Metadata] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._cancel: Callable[[], None] | None = None

    def metadata(self) -> Mapping[str, str | bytes]:
        return _metadata_of(self._context)

    def reply(self, message: bytes, trailers: Metadata = ()) -> None:
        self._settle((message, None, trailers))

    def fail(self, error: SkysailError, trailers: Metadata = ()) -> None:
        self._settle((None, error, trailers))

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._cancel = callback

    def _settle(self, answer: tuple[bytes | None, SkysailError | None, Metadata]) -> None:
        if self._answer is None:
            self._answer = answer
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    async def answered(self) -> bytes:
        """Wait for the answer and pass it to grpc.aio."""
        if self._answer is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                if self._cancel is not None:
                    self._cancel()
                raise
        assert self._answer is not None
        message, error, trailers = self._answer
        if error is not None:
            await abort(self._context, error, trailers)
        if trailers:
            self._context.set_trailing_metadata(cast(Any, tuple(trailers)))
        return cast(bytes, message)


class _GrpcStream:
    def __init__(self, method: str, messages: AsyncIterator[bytes], context: _Context) -> None:
        self.method = method
        self.arrival = 0.0
        self.deadline = _deadline_of(context)
        self._messages = messages
        self._context = context

    def metadata(self) -> Mapping[str, str | bytes]:
        return _metadata_of(self._context)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for message in self._messages:
            self.arrival = MONOTONIC()
            yield message

    async def accept(self) -> None:
        await self._context.send_initial_metadata(())

    async def send(self, message: bytes) -> None:
        await self._context.write(message)


class GrpcTransport:
    """The transport on grpc.aio, which needs only the package grpcio."""

    name = "grpc"

    def __init__(self, max_message_bytes: int, max_connection_age_s: float = 0.0) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_connection_age_s = max_connection_age_s
        loop = asyncio.get_running_loop()
        self.call_soon = loop.call_soon
        self.call_later = loop.call_later

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
        """Return a server (see `rpc.contract.Transport`); it never calls handlers of late calls."""
        return GrpcServer(
            services,
            max_message_bytes=self._max_message_bytes,
            max_connection_age_s=self._max_connection_age_s,
            shares_port=shares_port,
            certificates=certificates,
            generic_handlers=[_GrpcHandlers(unary, streams)],
        )

    @property
    def connect(self) -> Connector:
        """The function that opens links."""
        return connect

    def counters(self) -> Mapping[str, int]:
        """Return no counters, because grpc.aio has none."""
        return {}

    def close(self) -> None:
        """Do nothing, because servers and links close themselves."""


class _GrpcHandlers(grpc.GenericRpcHandler):
    """Adapters from calls of a grpc.aio server to handlers of the contract, by path."""

    def __init__(
        self, unary: Mapping[str, UnaryHandler], stream: Mapping[str, StreamHandler]
    ) -> None:
        self._handlers: dict[str, Any] = {
            **{path: _unary(path, handler) for path, handler in unary.items()},
            **{path: _stream(path, handler) for path, handler in stream.items()},
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a path, or None for an unknown path."""
        return self._handlers.get(handler_call_details.method)


def _unary(path: str, handler: UnaryHandler) -> Any:
    async def serve(message: bytes, context: _Context) -> bytes:
        call = _GrpcCall(path, message, context)
        handle(handler, call)
        return await call.answered()

    return grpc.unary_unary_rpc_method_handler(cast(Any, serve))


def _stream(path: str, handler: StreamHandler) -> Any:
    async def serve(messages: AsyncIterator[bytes], context: _Context) -> None:
        stream: Stream = _GrpcStream(path, messages, context)
        try:
            await handler(stream)
        except Exception as error:
            await abort(context, as_skysail_error(error, path))

    return grpc.stream_stream_rpc_method_handler(cast(Any, serve))


async def connect(
    endpoint: str, path: str, observer: LinkObserver, metadata: Metadata = ()
) -> Link:
    """Open a link (see `rpc.contract.Connector`)."""
    channel = open_channel(endpoint, MAX_LINK_MESSAGE_BYTES)
    try:
        call: Any = channel.stream_stream(path)(metadata=tuple(metadata))
        # The peer sends its headers when it accepts the stream. A connected channel does not prove
        # that, because the peer may drain.
        await asyncio.wait_for(_accepted(endpoint, channel, call), LINK_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        await channel.close()
        raise link_refused(endpoint, error.details(), error.code().value[0]) from error
    except asyncio.TimeoutError as error:
        await channel.close()
        raise link_refused(endpoint, "no answer in time") from error
    except BaseException:
        await channel.close()
        raise
    return _GrpcLink(channel, call, observer)


async def _accepted(endpoint: str, channel: grpc.aio.Channel, call: Any) -> None:
    await channel.channel_ready()
    await call.initial_metadata()
    if call.done():
        reason = await call.details() or "the stream ended"
        raise link_refused(endpoint, reason, (await call.code()).value[0])


class _GrpcLink:
    """A link with one task that writes queued messages and one that reads; messages need no task."""

    def __init__(self, channel: grpc.aio.Channel, call: Any, observer: LinkObserver) -> None:
        self._channel = channel
        self._call = call
        self._observer: LinkObserver | None = observer
        self._outbox: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._guard(self._write()), name="link writer"),
            asyncio.create_task(self._guard(self._read()), name="link reader"),
        ]

    def send(self, message: bytes) -> None:
        if self._observer is not None:
            self._outbox.append(message)
            self._wake.set()

    def close(self) -> None:
        self._observer = None
        self._end()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                await self._call.write(self._outbox.popleft())

    async def _read(self) -> None:
        while True:
            message = await self._call.read()
            if message is grpc.aio.EOF:
                is_well = await self._call.code() is grpc.StatusCode.OK
                self._lost(await self._call.details() or "the stream ended", not is_well)
                return
            if self._observer is not None:
                self._observer.link_received(message)

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except grpc.aio.AioRpcError as error:
            self._lost(error.details() or error.code().name, has_died=True)
        except asyncio.InvalidStateError:
            # The stream ended during a write; the reader reports the cause.
            pass
        except Exception:
            # If the reader ended unnoticed, every query on this link would wait for its deadline.
            log.exception("unhandled exception in link")
            self._lost("internal error", has_died=True)

    def _lost(self, reason: str, has_died: bool) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.link_closed(reason, has_died)
            self._end()

    def _end(self) -> None:
        self._outbox.clear()
        self._call.cancel()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        closing = asyncio.get_running_loop().create_task(self._close_channel())
        self._tasks.append(closing)

    async def _close_channel(self) -> None:
        with contextlib.suppress(Exception):
            await self._channel.close()

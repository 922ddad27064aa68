"""The stream that carries all queries of a client, with failover to other frontends."""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import grpc
import grpc.aio

from skysail.connection_errors import frontend_error
from skysail.forks import FORKS
from skysail.message_limits import message_limit, message_too_large
from skysail.tls import ClientTls
from skysail_common.clock import MONOTONIC
from skysail_common.errors import (
    DeadlineExceeded,
    SkysailError,
    Unavailable,
    error_of,
)
from skysail_common.process.backoff import BackOff
from skysail_common.rpc.channels import open_channel
from skysail_common.rpc.messages import duration
from skysail_common.rpc.statuses import from_rpc_error
from skysail_protos.v1 import query_pb2, query_pb2_grpc

_CONNECT_TIMEOUT_S = 2.0
_PATIENCE_S = 10.0
"""Time after a loss in which queries wait for a frontend, because a failed one is restarted."""
_FIRST_RETRY_S = 0.02
_MAX_RETRY_S = 0.5
_SLACK_S = 1.0
_MAX_BYTES = 2**31 - 1
"""Largest message of Protocol Buffers; each frontend has a lower limit."""
_TIMEOUT_BYTES = 32
"""Upper bound of the size of the timeout field, which is set again at each attempt."""
_READY = grpc.ChannelConnectivity.READY
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE


class _Pending:
    """A query without an answer."""

    __slots__ = ("answer", "deadline", "request")

    def __init__(self, request: query_pb2.PredictRequest, deadline: float) -> None:
        self.request = request
        self.deadline = deadline
        self.answer: asyncio.Future[query_pb2.PredictResponse] = (
            asyncio.get_running_loop().create_future()
        )


class QueryStream:
    """The stream to one frontend; a query connects it, and the next frontend replaces a lost one.

    A prediction is idempotent, so that a query may be sent twice.
    """

    def __init__(
        self,
        find_frontends: Callable[[], Awaitable[list[str]]],
        tls: ClientTls | None = None,
    ) -> None:
        """Connects on first use.

        Args:
            find_frontends: Returns the endpoints of frontends, or raises `Unavailable`.
            tls: Credentials for TLS; queries go in the clear if None.
        """
        self._tls = tls
        self._find_frontends = find_frontends
        self._frontends: deque[str] = deque()
        self._pending: dict[str, _Pending] = {}
        self._outbox: deque[str] = deque()
        self._wake = asyncio.Event()
        self._numbers = count()
        self._prefix = secrets.token_hex(5)
        self._connecting: asyncio.Task[None] | None = None
        self._is_suspended = False
        self._max_bytes = _MAX_BYTES
        self._lost_at = -_PATIENCE_S
        self._why = "not connected yet"

    async def ask(
        self, request: query_pb2.PredictRequest, timeout_s: float
    ) -> query_pb2.PredictResponse:
        """Return the answer to a query.

        Args:
            request: The query; this method sets its id and timeout.
            timeout_s: Longest wait, in seconds.

        Raises:
            SkysailError: the frontend refused the query.
            InvalidInput: the query is larger than the limit of a frontend, or the timeout is illegal.
            DeadlineExceeded: no answer came in time.
            Unavailable: no frontend is reachable.
            FailedPrecondition: the TLS handshake with a frontend failed.
        """
        FORKS.check()
        query_id = f"{self._prefix}-{next(self._numbers):x}"
        request.query_id = query_id
        # An illegal timeout must fail here, because on the stream it would end all other queries too.
        request.timeout.CopyFrom(duration(timeout_s))
        size = request.ByteSize()
        if size + _TIMEOUT_BYTES > self._max_bytes:
            raise message_too_large(size, self._max_bytes)
        pending = _Pending(request, MONOTONIC() + timeout_s)
        self._pending[query_id] = pending
        self._outbox.append(query_id)
        self._wake.set()
        self._connect()
        try:
            # The frontend answers at the timeout, if only with an error. The slack lets that answer
            # arrive.
            return await asyncio.wait_for(pending.answer, timeout_s + _SLACK_S)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(
                f"no frontend answered within {timeout_s:g} s; {self._why}"
            ) from None
        finally:
            self._pending.pop(query_id, None)

    def _connect(self) -> None:
        if self._is_suspended or (self._connecting and not self._connecting.done()):
            return
        self._connecting = asyncio.create_task(self._run(), name="query stream")

    async def suspend(self) -> None:
        """Close the connection until `resume`, which sends unanswered queries again."""
        self._is_suspended = True
        await self._disconnect()

    def resume(self) -> None:
        """Connect again if queries are pending."""
        self._is_suspended = False
        self._lost_at = MONOTONIC()
        if self._pending:
            self._connect()

    async def _disconnect(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
            self._connecting = None

    async def close(self) -> None:
        """Close the connection and fail unanswered queries."""
        await self._disconnect()
        self._fail_all(Unavailable("the client was closed"))

    def _fail_all(self, error: SkysailError) -> None:
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(error)

    async def _run(self) -> None:
        """Keep a stream open while queries are pending."""
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while self._pending:
            try:
                if not self._frontends:
                    self._frontends.extend(await self._find_frontends())
                # Attempts go round the frontends in order.
                await self._serve(self._frontends.popleft())
                back_off.reset()
                self._lost_at = MONOTONIC()
            except SkysailError as error:
                self._why = error.message
                if not self._frontends and MONOTONIC() - self._lost_at > _PATIENCE_S:
                    self._fail_all(error)
            except Exception as error:
                self._fail_all(SkysailError(f"internal error of the client: {error!r}"))
                raise
            if self._pending:
                await asyncio.sleep(back_off.next_s())

    async def _serve(self, endpoint: str) -> None:
        """Send queries and receive answers until the stream breaks.

        Raises:
            Unavailable: the frontend is unreachable.
            FailedPrecondition: the TLS handshake failed.
        """
        # Each connection reads the files again, because they may have been renewed.
        credentials = self._tls.credentials() if self._tls else None
        name = self._tls.server_name if self._tls else ""
        async with open_channel(endpoint, _MAX_BYTES, credentials, server_name=name) as channel:
            if not await _connects(channel):
                raise await asyncio.to_thread(frontend_error, endpoint, self._tls)
            call = query_pb2_grpc.QueryServiceStub(channel).PredictStream()
            # Queries of the lost stream come first.
            self._outbox = deque(self._pending)
            self._wake.set()
            writing = asyncio.create_task(self._write(call), name="query stream writer")
            try:
                while isinstance(answer := await call.read(), query_pb2.PredictStreamResponse):
                    self._take(answer)
                self._max_bytes = _MAX_BYTES
                self._why = f"{endpoint} ended the stream: {await call.details() or 'no reason'}"
            except grpc.aio.AioRpcError as error:
                self._why = f"{endpoint}: {from_rpc_error(error).message}"
                # A restarted frontend may have a higher limit.
                self._max_bytes = message_limit(error) or _MAX_BYTES
                self._refuse_large()
            finally:
                call.cancel()
                writing.cancel()
                # The writer fails together with the stream, whose error the reader has. The tasks of
                # gRPC for the call must end before the event loop does.
                await asyncio.gather(writing, call.code(), return_exceptions=True)

    def _refuse_large(self) -> None:
        """Fail queries above the size limit, because each retry would break the stream again."""
        for pending in self._pending.values():
            size = pending.request.ByteSize()
            if size > self._max_bytes and not pending.answer.done():
                pending.answer.set_exception(message_too_large(size, self._max_bytes))

    async def _write(self, call: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                pending = self._pending.get(self._outbox.popleft())
                if pending is None or pending.answer.done():
                    continue
                left_s = pending.deadline - MONOTONIC()
                if left_s > 0:
                    pending.request.timeout.CopyFrom(duration(left_s))
                    await call.write(pending.request)

    def _take(self, answer: query_pb2.PredictStreamResponse) -> None:
        pending = self._pending.get(answer.query_id)
        if pending is None or pending.answer.done():
            return
        if answer.HasField("error"):
            error = answer.error
            with contextlib.suppress(asyncio.InvalidStateError):
                pending.answer.set_exception(error_of(error.reason, error.code, error.message))
        else:
            pending.answer.set_result(answer.response)


async def _connects(channel: grpc.aio.Channel) -> bool:
    """Return whether a new channel connects; False at the first failure."""

    async def connects() -> bool:
        while (state := channel.get_state(try_to_connect=True)) is not _READY:
            if state is _FAILED:
                return False
            await channel.wait_for_state_change(state)
        return True

    try:
        return await asyncio.wait_for(connects(), _CONNECT_TIMEOUT_S)
    except asyncio.TimeoutError:
        return False

"""The channel to management, which all calls of a client share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc.aio

from skysail.calls.retries import LostConnection, RetryPolicy, await_call
from skysail.connection_errors import management_error
from skysail.forks import FORKS
from skysail_common.errors import DeadlineExceeded, SkysailError, Unavailable
from skysail_common.rpc.management_access import ManagementAccess
from skysail_protos.v1 import management_pb2_grpc

if TYPE_CHECKING:
    # The generated class exists in the stub file only.
    from skysail_protos.v1.management_pb2_grpc import ManagementServiceAsyncStub as Stub

T = TypeVar("T")

_SLACK_S = 1.0


class ManagementChannel:
    """A client of management, connected by its first call."""

    def __init__(self, endpoint: str, timeout_s: float, access: ManagementAccess) -> None:
        """Connects on first use.

        Args:
            endpoint: Endpoint of management, as host:port.
            timeout_s: Longest wait for an answer, unless a call has its own limit.
            access: Authority of the certificate of management, and the token.
        """
        self._access = access
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._management_channel: grpc.aio.Channel | None = None
        self._under_way: set[asyncio.Future[Any]] = set()

    async def _close_management(self, grace_s: float = 0.0) -> None:
        """Close the channel.

        Args:
            grace_s: Longest wait for calls in flight.
        """
        while (channel := self._management_channel) is not None:
            if self._under_way and grace_s:
                await asyncio.wait(self._under_way, timeout=grace_s)
            self._management_channel = None
            await channel.close()

    def _forget_management(self) -> None:
        """Drop the channel of the parent process without closing it."""
        self._management_channel = None
        self._under_way = set()

    @property
    def _management(self) -> "Stub":
        if self._management_channel is None:
            FORKS.check()
            self._management_channel = self._access.open_channel(self.endpoint)
        return management_pb2_grpc.ManagementServiceStub(self._management_channel)

    async def _call(
        self,
        ask: "Callable[[Stub], Awaitable[T]]",
        *,
        is_repeatable: bool = True,
        retries: RetryPolicy | None = None,
        limit_s: float | None = None,
    ) -> T:
        """Return the response of management; retry if the connection breaks.

        Args:
            ask: Starts one attempt.
            is_repeatable: False if the call is not idempotent, so that it must not be retried.
            retries: Policy of the operation that the call belongs to; a new one if None.
            limit_s: Longest time for all attempts; the limit of the client if None.
        """
        retries = retries or RetryPolicy()
        limit_s = self._timeout_s if limit_s is None else limit_s
        attempts = self._attempts(ask, is_repeatable, retries)
        try:
            # The limit of each attempt is a little shorter, because its error has more detail.
            return await asyncio.wait_for(attempts, limit_s + _SLACK_S)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(
                f"management at {self.endpoint} did not answer within {limit_s:g} s"
            ) from None

    async def _attempts(
        self, ask: "Callable[[Stub], Awaitable[T]]", is_repeatable: bool, retries: RetryPolicy
    ) -> T:
        while True:
            try:
                attempt = asyncio.ensure_future(
                    await_call(ask(self._management), self._translate_error)
                )
                self._under_way.add(attempt)
                attempt.add_done_callback(self._under_way.discard)
                response = await attempt
            except LostConnection as lost:
                if not is_repeatable:
                    raise lost.error from None
                wait_s = retries.next_wait_s(lost)
            except Unavailable as error:
                wait_s = retries.next_wait_s(error)
            else:
                retries.note_answer()
                return response
            # The wait is outside of the handler, because the error holds the call, which must be
            # released before a fork.
            await asyncio.sleep(wait_s)

    async def _stream(
        self, ask: "Callable[[Stub], grpc.aio.UnaryStreamCall[Any, T]]"
    ) -> AsyncIterator[T]:
        """Yield the responses of a call; cancel the call if the iteration ends early.

        Raises:
            LostConnection: the stream broke.
            SkysailError: management refused the call.
        """
        responses = ask(self._management)
        try:
            while (
                response := await await_call(responses.read(), self._translate_error)
            ) is not grpc.aio.EOF:
                yield cast(T, response)
        finally:
            responses.cancel()

    @property
    def timeout_s(self) -> float:
        """Longest wait for an answer in seconds, unless a call has its own limit."""
        return self._timeout_s

    def _translate_error(self, error: grpc.aio.AioRpcError) -> SkysailError:
        return management_error(error, self.endpoint, self._access)

"""The channel to management, which every call shares."""

from collections.abc import Awaitable
from typing import TypeVar

import grpc.aio

from skysail.reaching import management_error
from skysail_common.errors import SkysailError
from skysail_common.rpc.management_access import ManagementAccess
from skysail_common.rpc.statuses import call
from skysail_protos.v1 import management_pb2_grpc

ResponseT = TypeVar("ResponseT")


class ManagementCalls:
    """A client of management that connects when it is first used."""

    def __init__(self, endpoint: str, timeout_s: float, access: ManagementAccess) -> None:
        """Connects to nothing yet.

        Args:
            endpoint: Where management is reached, as host:port.
            timeout_s: Longest wait for an answer, unless a call says otherwise.
            access: Authority of management's certificate, and the token to show.
        """
        self._access = access
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._management_channel: grpc.aio.Channel | None = None

    async def _close_management(self) -> None:
        if self._management_channel is not None:
            await self._management_channel.close()
            self._management_channel = None

    @property
    def _management(self) -> "management_pb2_grpc.ManagementServiceAsyncStub":
        if self._management_channel is None:
            self._management_channel = self._access.open_channel(self.endpoint)
        return management_pb2_grpc.ManagementServiceStub(self._management_channel)

    async def _call(self, response: Awaitable[ResponseT]) -> ResponseT:
        """Await a response of management."""
        return await call(response, self._told)

    def _told(self, error: grpc.aio.AioRpcError) -> SkysailError:
        return management_error(error, self.endpoint, self._access)

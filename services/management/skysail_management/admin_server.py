"""The server of management: it may listen before there is anything to serve.

A management that waits for its turn is alive and says so by health. Callers that reach it, by an
address that is no longer right, are told to try again.
"""

from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import grpc.aio

from skysail_common.errors import Unavailable
from skysail_common.rpc.serving import GrpcServer
from skysail_common.sockets import join_host_port
from skysail_management.servicer import ManagementServicer
from skysail_protos.v1 import management_pb2_grpc

SERVICE = "skysail.v1.ManagementService"


class AdminServer(GrpcServer):
    """Serves operators and frontends, once there is what serves them."""

    def __init__(self) -> None:
        """Builds a server that listens nowhere yet."""
        super().__init__([SERVICE])
        self.endpoint = ""
        """Where it listens, as host:port; empty before."""
        self._is_started = False
        self._service = _LateService()
        self.grpc.add_generic_rpc_handlers((self._service,))

    def listen(self, host: str, port: int) -> str:
        """Take the address, unless that was done, and return `endpoint`.

        Raises:
            FailedPrecondition: it is in use or cannot be bound.
        """
        if not self.endpoint:
            self.endpoint = join_host_port(host, self.bind(join_host_port(host, port)))
        return self.endpoint

    async def start(self) -> None:
        """Begin to answer calls, unless that was done: by health, and by refusals until `serve`."""
        if not self._is_started:
            self._is_started = True
            await super().start()

    def serve(self, servicer: ManagementServicer) -> None:
        """Have calls answered by the servicer from now on."""
        # What the protobuf compiler wrote only hands its handlers over.
        server = cast(grpc.aio.Server, self._service)
        management_pb2_grpc.add_ManagementServiceServicer_to_server(servicer, server)


class _LateService(grpc.GenericRpcHandler):
    """The methods of the service; grpc.aio asks for the handler at each call, so it may change."""

    def __init__(self) -> None:
        self._handlers: tuple[grpc.GenericRpcHandler, ...] = ()
        self._refusal: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            _refuse
        )

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        """Take the handlers of the service, as a server does."""
        self._handlers = tuple(handlers)

    def add_registered_method_handlers(self, name: str, handlers: dict[str, Any]) -> None:
        """Take the same handlers in the form that a server that is not started has a use for."""

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return what answers a method; None for one of another service."""
        if self._handlers:
            return self._handlers[0].service(details)
        return self._refusal if details.method.startswith(f"/{SERVICE}/") else None


async def _refuse(
    requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[Any, Any]"
) -> AsyncIterator[bytes]:
    raise Unavailable("this management does not work now: another one does, or is about to")
    # Makes it what a streaming handler is.
    yield b""

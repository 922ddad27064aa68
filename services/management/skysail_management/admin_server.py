"""The server of management: it may listen before there is anything to serve.

A management that waits for its turn is alive and says so by health. It answers callers that still
have its address with `UNAVAILABLE`, so that they try again. With a token, health and reflection are all
that a caller without it gets; replicas show tokens of their own to the one method that they call.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import grpc
import grpc.aio

from skysail_common.errors import SkysailError, Unauthenticated, Unavailable
from skysail_common.process.sockets import join_host_port
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.grpc_server import GrpcServer
from skysail_common.rpc.health_check import READINESS
from skysail_common.rpc.management_access import is_same_token, token_of
from skysail_management.request_limits import check_request
from skysail_management.servicer import ManagementServicer
from skysail_protos.v1 import management_pb2_grpc

SERVICE = "skysail.v1.ManagementService"
_OF_REPLICAS = f"/{SERVICE}/DownloadArtifact"


class AdminServer(GrpcServer):
    """Serves operators and frontends, once there is what serves them."""

    def __init__(self, certificates: ServerCertificates | None = None, token: str = "") -> None:
        """Builds a server that does not listen.

        Args:
            certificates: What it shows, over TLS; in the clear if None.
            token: What callers must show; anybody is served if empty.
        """
        super().__init__([SERVICE], certificates=certificates, check_request=check_request)
        self.endpoint = ""
        """Where it listens, as host:port; empty before."""
        self._is_started = False
        self._service = _LateService(token)
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
            await self.set_health(READINESS, False)
            await super().start()

    async def set_ready(self) -> None:
        """Say by health that this management serves, or could if the leader went away."""
        await self.set_health(READINESS, True)

    def serve(self, servicer: ManagementServicer) -> None:
        """Serve calls with the servicer from now on."""
        # What the protobuf compiler wrote only hands its handlers over.
        server = cast(grpc.aio.Server, self._service)
        management_pb2_grpc.add_ManagementServiceServicer_to_server(servicer, server)


class _LateService(grpc.GenericRpcHandler):
    """The methods of the service; grpc.aio asks for the handler at each call, so it may change."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._handlers: tuple[grpc.GenericRpcHandler, ...] = ()

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        """Take the handlers of the service, as a server does."""
        self._handlers = tuple(handlers)

    def add_registered_method_handlers(self, name: str, handlers: dict[str, Any]) -> None:
        """Take the same handlers in the form that a server that is not started has a use for."""

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return what answers a method; None for one of another service."""
        if not details.method.startswith(f"/{SERVICE}/"):
            return None
        if self._token and details.method != _OF_REPLICAS and not self._is_shown(details):
            return _NO_TOKEN
        return self._handlers[0].service(details) if self._handlers else _NOT_LEADING

    def _is_shown(self, details: grpc.HandlerCallDetails) -> bool:
        metadata = cast("Sequence[tuple[str, str | bytes]]", details.invocation_metadata or ())
        return is_same_token(token_of(dict(metadata)), self._token)


def _refusal(error: type[SkysailError], message: str) -> "grpc.RpcMethodHandler[Any, Any]":
    async def refuse(
        requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[bytes]:
        raise error(message)
        # Makes it what a streaming handler is.
        yield b""

    return grpc.stream_stream_rpc_method_handler(refuse)


_NOT_LEADING = _refusal(
    Unavailable,
    "cannot serve the call: this management does not lead, another one does or is about to; retry it",
)
_NO_TOKEN = _refusal(
    Unauthenticated,
    "management asks for a token, and the call shows none or another; set SKYSAIL_TOKEN, or token= "
    "of the client",
)

"""The gRPC server of management, which can listen before its service is ready.

A standby is alive and reports this by health. It answers callers that still have its address with
`UNAVAILABLE`, so that they retry. If a token is required, a caller without it gets only health and
reflection. Replicas show their own tokens to the methods that they call.
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
from skysail_management.artifact_servicer import METHODS, SERVICE
from skysail_management.request_limits import check_request
from skysail_management.servicer import ManagementServicer
from skysail_protos.v1 import management_pb2_grpc

_REPLICA_METHODS = frozenset(f"/{SERVICE}/{method}" for method in METHODS)


class AdminServer(GrpcServer):
    """Serves operators and frontends when the service is added."""

    def __init__(self, certificates: ServerCertificates | None = None, token: str = "") -> None:
        """Create a server that does not listen.

        Args:
            certificates: Certificates for TLS; plain text if None.
            token: Token that callers must show; empty accepts everyone.
        """
        super().__init__([SERVICE], certificates=certificates, check_request=check_request)
        self.endpoint = ""
        """Bound address as host:port; empty before `listen`."""
        self._is_started = False
        self._service = _LateService(token)
        self.grpc.add_generic_rpc_handlers((self._service,))

    def listen(self, host: str, port: int) -> str:
        """Bind the address, unless it is bound, and return `endpoint`.

        Raises:
            FailedPrecondition: the address is in use or cannot be bound.
        """
        if not self.endpoint:
            self.endpoint = join_host_port(host, self.bind(join_host_port(host, port)))
        return self.endpoint

    async def start(self) -> None:
        """Start to answer calls, unless started: health, and refusals until `serve`."""
        if not self._is_started:
            self._is_started = True
            await self.set_health(READINESS, False)
            await super().start()

    async def set_ready(self) -> None:
        """Report by health that this management serves, or could take over from the leader."""
        await self.set_health(READINESS, True)

    def serve(self, servicer: ManagementServicer) -> None:
        """Serve calls with the servicer from now on."""
        # The generated function only passes the handlers on.
        server = cast(grpc.aio.Server, self._service)
        management_pb2_grpc.add_ManagementServiceServicer_to_server(servicer, server)


class _LateService(grpc.GenericRpcHandler):
    """The methods of the service, which may change, because grpc.aio looks them up at each call."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._handlers: tuple[grpc.GenericRpcHandler, ...] = ()

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        """Set the handlers of the service, as a server does."""
        self._handlers = tuple(handlers)

    def add_registered_method_handlers(self, name: str, handlers: dict[str, Any]) -> None:
        """Ignore the handlers in a second form, which only servers use."""

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the handler of a method, or None for another service."""
        if not details.method.startswith(f"/{SERVICE}/"):
            return None
        if self._token and details.method not in _REPLICA_METHODS and not self._is_shown(details):
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
        # The unreachable yield makes the function an async generator.
        yield b""

    return grpc.stream_stream_rpc_method_handler(refuse)


_NOT_LEADING = _refusal(
    Unavailable,
    "cannot serve the call: this management is a standby, and another one leads or will soon; retry",
)
_NO_TOKEN = _refusal(
    Unauthenticated,
    "cannot serve the call: it has no token or a wrong one; set SKYSAIL_TOKEN, or token= of the "
    "client",
)

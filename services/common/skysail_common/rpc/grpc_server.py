"""The grpc.aio server of every service, with health, reflection, errors and limits."""

from collections.abc import Sequence
from typing import Any, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from skysail_common.process.sockets import cannot_listen
from skysail_common.rpc.certificates import Pem, ServerCertificates
from skysail_common.rpc.channels import (
    KEEP_ALIVE,
    MAX_MESSAGE_BYTES,
    MIN_PING_INTERVAL_S,
    KeepAlive,
    keep_alive_options,
)
from skysail_common.rpc.health_check import LIVENESS
from skysail_common.rpc.interceptors import CheckRequest, ErrorInterceptor


class GrpcServer:
    """One grpc.aio server on one address."""

    def __init__(
        self,
        services: Sequence[str],
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_connection_age_s: float = 0.0,
        shares_port: bool = False,
        certificates: ServerCertificates | None = None,
        generic_handlers: Sequence[grpc.GenericRpcHandler] = (),
        check_request: CheckRequest | None = None,
        keep_alive: KeepAlive = KEEP_ALIVE,
    ) -> None:
        """Build a server; `bind` opens its address.

        Args:
            services: Full names of its services, for reflection and health.
            max_message_bytes: Largest message either way.
            max_connection_age_s: See `rpc.transports.open_transport`.
            shares_port: True to share the port with other processes.
            certificates: Certificates of TLS; no TLS if None, and none on unix sockets.
            generic_handlers: Handlers on bytes, which translate their errors themselves. The server
                then has no interceptor, because an interceptor slows each call.
            check_request: Check of each request before its servicer; raises the error.
            keep_alive: Detection of lost clients.
        """
        self._services = tuple(services)
        self._credentials = credentials_of(certificates) if certificates else None
        # grpc.aio adds the jitter itself, and waits for calls in flight without a bound.
        age_ms = round(1000 * max_connection_age_s)
        age = [("grpc.max_connection_age_ms", age_ms)] if age_ms else []
        self.grpc = grpc.aio.server(
            interceptors=() if generic_handlers else (ErrorInterceptor(check_request),),
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                # The default lets two servers share a port by accident.
                ("grpc.so_reuseport", int(shares_port)),
                (
                    "grpc.http2.min_ping_interval_without_data_ms",
                    int(MIN_PING_INTERVAL_S * 1000),
                ),
                ("grpc.keepalive_permit_without_calls", 1),
                *keep_alive_options(keep_alive),
                *age,
            ],
        )
        if generic_handlers:
            self.grpc.add_generic_rpc_handlers(tuple(generic_handlers))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.grpc)

    def bind(self, address: str) -> int:
        """Bind to `host:port` or `unix:/path` and return the port (0 for a unix socket).

        The server answers calls after `start`.

        Raises:
            FailedPrecondition: the address is in use or cannot be bound.
        """
        try:
            if self._credentials is None or address.startswith("unix:"):
                port = self.grpc.add_insecure_port(address)
            else:
                port = self.grpc.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise cannot_listen(address) from error
        return 0 if address.startswith("unix:") else port

    async def start(self) -> None:
        """Start to answer calls; health is NOT_SERVING until `set_serving`, except for `LIVENESS`."""
        await self.set_serving(False)
        await self.set_health(LIVENESS, True)
        await self.grpc.start()

    async def set_serving(self, is_serving: bool) -> None:
        """Set the health of the services: whether they accept calls."""
        for name in ("", *self._services):
            await self.set_health(name, is_serving)

    async def set_health(self, name: str, is_well: bool) -> None:
        """Set the health of one name."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if is_well
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let calls in flight end within `grace_s`, and close."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace_s)


def credentials_of(certificates: ServerCertificates) -> grpc.ServerCredentials:
    """Return credentials that present the current certificates to each new connection."""

    def configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.chain)], pem.client_ca)

    shown = certificates.pem

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        # gRPC calls this function for each connection, on its own thread.
        nonlocal shown
        pem = certificates.pem
        if pem is shown:
            return None
        shown = pem
        return configuration(pem)

    return grpc.dynamic_ssl_server_credentials(
        configuration(shown),
        # A return value of None means no change; the type stubs lack it.
        cast(Any, renewed),
        require_client_authentication=shown.client_ca is not None,
    )

"""A grpc.aio server with what every one of ours has: health, reflection, errors, limits."""

import sys
from collections.abc import Sequence

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from skysail_common.rpc.channels import MAX_MESSAGE_BYTES
from skysail_common.rpc.health_check import LIVENESS
from skysail_common.rpc.interceptors import ErrorInterceptor
from skysail_common.sockets import cannot_listen


class GrpcServer:
    """One grpc.aio server on one address."""

    def __init__(
        self,
        services: Sequence[str],
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        shares_port: bool = False,
        generic_handlers: Sequence[grpc.GenericRpcHandler] = (),
    ) -> None:
        """Builds a server that listens nowhere yet.

        Args:
            services: Full names of the services that it will serve, for reflection and health.
            max_message_bytes: Largest message either way.
            shares_port: True to listen beside other processes on the same port.
            generic_handlers: Handlers on bytes, which translate their errors themselves; a
                server that has them has no interceptor, which would cost every call.
        """
        self._services = tuple(services)
        self.grpc = grpc.aio.server(
            interceptors=() if generic_handlers else (ErrorInterceptor(),),
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                # Without being asked to, two on one port would share the calls by chance.
                ("grpc.so_reuseport", int(shares_port)),
                # Clients of ours ping idle connections every 20 s.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        if generic_handlers:
            self.grpc.add_generic_rpc_handlers(tuple(generic_handlers))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.grpc)

    def bind(self, address: str) -> int:
        """Take `host:port` or `unix:/path` and return the port (0 for a unix socket).

        Calls are answered after `start`.

        Raises:
            FailedPrecondition: the address is in use or cannot be bound.
        """
        try:
            port = self.grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise cannot_listen(address) from error
        return 0 if address.startswith("unix:") else port

    async def start(self) -> None:
        """Begin to answer calls; health says NOT_SERVING until `set_serving`, but for `LIVENESS`."""
        await self.set_serving(False)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self.grpc.start()

    async def set_serving(self, is_serving: bool) -> None:
        """Say by health whether the services take calls."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if is_serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", *self._services):
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Accept no call any more, let those under way end within `grace_s`, and close."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace_s)


def print_ready_line(service: str, **bound: str) -> None:
    """Print the one line that tells a parent process what was bound."""
    pairs = " ".join(f"{name}={value}" for name, value in bound.items())
    sys.stdout.write(f"ready {service} {pairs}\n")
    sys.stdout.flush()


def parse_ready_line(line: str) -> dict[str, str] | None:
    """Return what a ready line says was bound, or None if `line` is not one."""
    words = line.split()
    if len(words) < 2 or words[0] != "ready":
        return None
    return dict(word.partition("=")[::2] for word in words[2:])

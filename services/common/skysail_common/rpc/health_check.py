"""Health checks over grpc.health.v1, for images and for event loops."""

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skysail_common.process.sockets import local_endpoint
from skysail_common.rpc.channels import open_channel

LIVENESS = "skysail.liveness"
"""Health name for liveness: SERVING while the process answers, even if it accepts no calls."""

READINESS = "skysail.readiness"
"""Health name for readiness: SERVING if a management serves, or can take over with its store."""

STORE = "skysail.store"
"""Health name for the store: SERVING if the store of a management accepts changes."""

TIMEOUT_S = 5.0
"""Longest time until the answer of a health check."""


def health_status(address: str, service: str = "") -> int:
    """Return 0 if a service on this address is SERVING, else 1.

    Args:
        address: Listen address of the service, on the same machine.
        service: Full name of the service, or `LIVENESS`; all services of the server if empty.
    """
    endpoint = address if address.startswith("unix:") else local_endpoint(address)
    options = (("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(endpoint, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            response = stub.Check(request, timeout=TIMEOUT_S)
        except grpc.RpcError:
            return 1
    return int(response.status != health_pb2.HealthCheckResponse.SERVING)


async def is_serving(endpoint: str, service: str = "") -> bool:
    """Return whether a service is SERVING; `health_status` for event loops."""
    # Each check uses a new channel, because gRPC backs off on a channel that failed before.
    async with open_channel(endpoint) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

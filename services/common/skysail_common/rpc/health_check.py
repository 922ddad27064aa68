"""The health check of images, which asks a server over grpc.health.v1."""

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skysail_common.process.sockets import local_endpoint
from skysail_common.rpc.channels import open_channel

LIVENESS = "skysail.liveness"
"""The service whose health says that a process is alive, whether or not it takes calls."""

READINESS = "skysail.readiness"
"""The service whose health says that a management serves, or could take over: its store lets it in."""

STORE = "skysail.store"
"""The service whose health says that the store of a management takes changes."""

TIMEOUT_S = 5.0
"""Longest time until the answer of a health check."""


def health_status(address: str, service: str = "") -> int:
    """Return 0 if a service on this address is well, else 1.

    Args:
        address: What it was told to listen on; it is dialled from the same machine.
        service: Its full name, or `LIVENESS`; if empty, all that take calls there.
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
    # A new channel each time: grpc delays the attempts of one that failed ever longer.
    async with open_channel(endpoint) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

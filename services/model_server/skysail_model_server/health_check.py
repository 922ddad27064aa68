"""`python -m skysail_model_server.health_check`: the health check of the image.

It reads the same variables as the model server does.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skysail_common.settings import read_settings
from skysail_model_server.settings import ModelServerSettings

_TIMEOUT_S = 5.0


def main() -> int:
    """Return 0 if the model server takes batches, else 1."""
    settings = read_settings(ModelServerSettings, "health-check", [])
    address = settings.listen_address.replace("0.0.0.0:", "127.0.0.1:")
    options = (("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(address, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return 1
    return int(response.status != health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(main())

"""Health of a replica while user code holds the interpreter, on the native transport."""

import importlib.util
import threading
from time import monotonic

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("skysail_transport") is None,
    reason="native transport is not installed",
)

HELD_S = 5.0
EXAMPLE = np.zeros((1, 1), np.float32)


def hold(x):
    """Hold the interpreter for 5 s on a positive input, as some C extensions do."""
    import ctypes

    if x.max() > 0:
        # PyDLL holds the interpreter during a call.
        ctypes.PyDLL(None).usleep(5_000_000)
    return x


def test_a_replica_with_a_held_interpreter_stays_healthy(cluster, client, request):
    if request.config.getoption("--transport") == "grpc":
        pytest.skip("health is answered by the interpreter on grpc.aio")
    client.deploy(hold, name="hold", version="1", example=EXAMPLE)
    try:
        (replica,) = client.describe_version("hold").replicas
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(client.predict("hold", np.ones(1), timeout_s=20))
        )
        begin = monotonic()
        asking.start()
        options = [("grpc.default_authority", "localhost")]
        num_checks = 0
        with grpc.insecure_channel(replica.endpoint, options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while monotonic() - begin < HELD_S - 1:
                checked = monotonic()
                response = stub.Check(
                    health_pb2.HealthCheckRequest(), timeout=1, wait_for_ready=True
                )
                assert response.status == health_pb2.HealthCheckResponse.SERVING
                assert monotonic() - checked < 1
                num_checks += 1
        asking.join(20)
        assert not answers[0].is_default
        assert monotonic() - begin >= HELD_S
        assert num_checks > 100
        (after,) = client.describe_version("hold").replicas
        assert after.container_id == replica.container_id
        assert client.predict("hold", np.zeros(1), timeout_s=5).output.tolist() == [0.0]
    finally:
        client.undeploy("hold", force=True)

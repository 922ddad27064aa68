"""A management that waits for its turn, and the alarm that ends one whose turn is over."""

import subprocess
import sys
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skysail_common.rpc.health_check import LIVENESS
from skysail_management.admin_server import SERVICE, AdminServer
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import management_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Servicer(management_pb2_grpc.ManagementServiceServicer):
    async def ListApplications(self, request, context):
        return pb.ListApplicationsResponse(applications=[pb.Application(name="it serves")])


async def health(channel: grpc.aio.Channel) -> dict[str, int]:
    stub = health_pb2_grpc.HealthStub(channel)
    return {
        name: (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)).status
        for name in ("", SERVICE, LIVENESS)
    }


async def test_a_server_that_waits_is_alive_and_refuses_calls_until_it_serves():
    server = AdminServer()
    endpoint = server.listen("127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(endpoint) as channel:
        assert await health(channel) == {"": NOT_SERVING, SERVICE: NOT_SERVING, LIVENESS: SERVING}
        stub = management_pb2_grpc.ManagementServiceStub(channel)
        for call in (
            stub.ListApplications(pb.ListApplicationsRequest(), timeout=10),
            stub.UploadArtifact(iter([pb.UploadArtifactRequest(chunk=b"x")]), timeout=10),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "another one does" in (raised.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await anext(aiter(stub.Deploy(pb.DeployRequest(), timeout=10)))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/no.Such/Method")(b"", timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED

        server.serve(Servicer())
        await server.start()
        await server.set_serving(True)
        assert server.listen("127.0.0.1", 0) == endpoint
        assert await health(channel) == {"": SERVING, SERVICE: SERVING, LIVENESS: SERVING}
        answer = await stub.ListApplications(pb.ListApplicationsRequest(), timeout=10)
        assert answer.applications[0].name == "it serves"
    await server.stop(0)


PROGRAM = """
import asyncio, sys, time
from skysail_management.leadership.watchdog import Watchdog

async def main():
    watchdog = Watchdog()
    watchdog.arm(60)
    watchdog.arm(0.3)
    {}
    print("still works")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "work",
    [
        "await asyncio.sleep(20)",
        "time.sleep(20)",
        "while True: pass",
        "watchdog.arm(-1); time.sleep(20)",
    ],
)
def test_the_alarm_ends_a_process_whatever_it_does(work):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(work)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert time.monotonic() - began < 10
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == "skysail-management: the lease was not renewed in time; it ends at once\n"


def test_an_alarm_that_is_off_does_not_ring():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format("watchdog.disarm(); time.sleep(0.6)")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "still works\n", "")

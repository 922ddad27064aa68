"""Management that waits for its lease or its store, and the watchdog of the lease."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skysail_common.errors import StoreRefused
from skysail_common.rpc.health_check import LIVENESS, READINESS
from skysail_common.store import Store
from skysail_common.store.embedded import server_url
from skysail_management.admin_server import SERVICE, AdminServer
from skysail_management.ownership.standby import Standby
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import management_pb2_grpc
from skysail_testing.processes import Service, eventually
from skysail_testing.store_servers import StoreServer, embedded_command

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Servicer(management_pb2_grpc.ManagementServiceServicer):
    async def ListApplications(self, request, context):
        return pb.ListApplicationsResponse(applications=[pb.Application(name="it serves")])


async def health(channel: grpc.aio.Channel) -> dict[str, int]:
    stub = health_pb2_grpc.HealthStub(channel)
    return {
        name: (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)).status
        for name in ("", SERVICE, LIVENESS, READINESS)
    }


async def test_a_waiting_server_is_alive_and_refuses_calls_until_it_serves():
    server = AdminServer()
    endpoint = server.listen("127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(endpoint) as channel:
        waiting = {"": NOT_SERVING, SERVICE: NOT_SERVING, LIVENESS: SERVING}
        assert await health(channel) == {**waiting, READINESS: NOT_SERVING}
        stub = management_pb2_grpc.ManagementServiceStub(channel)
        for call in (
            stub.ListApplications(pb.ListApplicationsRequest(), timeout=10),
            stub.UploadArtifact(iter([pb.UploadArtifactRequest(chunk=b"x")]), timeout=10),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "another one leads" in (raised.value.details() or "")
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
        await server.set_ready()
        assert set((await health(channel)).values()) == {SERVING}
        answer = await stub.ListApplications(pb.ListApplicationsRequest(), timeout=10)
        assert answer.applications[0].name == "it serves"
    await server.stop(0)


async def test_a_standby_is_ready_once_another_leads_and_the_store_answers(tmp_path: Path):
    server = AdminServer()
    endpoint = server.listen("127.0.0.1", 0)
    await server.start()
    store = Store(server_url(tmp_path / "s"), "c")
    standby = Standby(server, store)
    announcing = asyncio.create_task(standby.announce())
    async with grpc.aio.insecure_channel(endpoint) as channel:
        valkey = StoreServer(embedded_command, tmp_path)
        await valkey.start()
        await asyncio.sleep(0.3)
        # A process that may become the leader is not ready before it serves.
        assert (await health(channel))[READINESS] == NOT_SERVING
        valkey.kill()
        standby.mark_standby()
        await asyncio.sleep(0.3)
        assert (await health(channel))[READINESS] == NOT_SERVING
        await valkey.start()
        await asyncio.wait_for(announcing, 20)
        assert (await health(channel))[READINESS] == SERVING
        assert (await health(channel))[SERVICE] == NOT_SERVING
        valkey.stop()
    await store.close()
    await server.stop(0)


async def test_a_standby_with_a_wrong_password_is_never_ready(tmp_path: Path):
    server = AdminServer()
    endpoint = server.listen("127.0.0.1", 0)
    await server.start()
    valkey = StoreServer(embedded_command, tmp_path)
    await valkey.start()
    store = Store(f"unix://:wrong@{valkey.socket}", "c")
    standby = Standby(server, store)
    standby.mark_standby()
    with pytest.raises(StoreRefused, match="refuses the password"):
        await asyncio.wait_for(standby.announce(), 20)
    async with grpc.aio.insecure_channel(endpoint) as channel:
        assert (await health(channel))[READINESS] == NOT_SERVING
    await store.close()
    valkey.stop()
    await server.stop(0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreServer]:
    store = StoreServer(embedded_command, tmp_path)
    yield store
    store.stop()


def waiting_management(store: StoreServer) -> Service:
    """Start a management whose store is down."""
    flags = ["--data-dir", str(store.directory / "d"), "--port", "0", "--store-timeout-s", "60"]
    service = Service("skysail_management", flags, {"SKYSAIL_REDIS_URL": store.url})
    eventually(lambda: "store not reachable" in service.errors)
    return service


async def test_management_waits_for_its_store(store):
    service = waiting_management(store)
    await store.start()
    service.wait_ready()
    assert service.stop() == 0


def test_a_waiting_management_stops_on_sigterm(store):
    assert waiting_management(store).stop(5.0) == 0


PROGRAM = """
import asyncio, sys, time
from skysail_management.leadership.lease_watchdog import LeaseWatchdog

async def main():
    watchdog = LeaseWatchdog()
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
def test_the_watchdog_ends_a_busy_process(work):
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
    assert done.stderr == "skysail-management: the lease was not renewed in time; exiting at once\n"


def test_a_disarmed_watchdog_does_not_end_the_process():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format("watchdog.disarm(); time.sleep(0.6)")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "still works\n", "")

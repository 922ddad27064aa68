"""The contract of `Cluster`, tested on every back end with fake services."""

import asyncio
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skysail.clusters.back_ends import (
    DOCKER,
    KUBERNETES,
    LOCAL,
    back_end,
    chosen_back_end,
    last_back_end,
)
from skysail.clusters.base import Cluster
from skysail.clusters.cluster_file import read_endpoints, write_endpoints
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.options import ClusterEndpoints
from skysail.clusters.supervised import SupervisedCluster
from skysail.settings import CLUSTER_FILE
from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes.errors import ClusterRefused
from skysail_common.process.child_process import StartFailed
from skysail_common.process.data_dir import remove_socket_directory
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_services import node, service, service_pod

ENDPOINTS = ClusterEndpoints("10.0.0.1:38003", "10.0.0.1:38001", "10.0.0.1:38000", "10.0.0.1:38002")
PORTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "management_port": 0}


class FakeServices:
    """Stands for `LocalServices` and `DockerServices`."""

    host = "unix:///fake"
    files = ()

    def __init__(self, world: "World") -> None:
        self._world = world

    async def start(self, *options: Any) -> ClusterEndpoints:
        if self._world.is_broken:
            raise StartFailed("the frontend does not start")
        return ENDPOINTS

    async def stop(self) -> bool:
        return True

    async def remove(self) -> bool:
        return True

    async def close(self) -> None:
        pass


class World:
    """One back end whose services are fakes."""

    def __init__(self, name: str, data_dir: Path, patch: pytest.MonkeyPatch) -> None:
        self.name = name
        self.data_dir = data_dir
        self.is_broken = False
        self.flags = {"cluster": "blue", **({} if name == KUBERNETES else PORTS)}
        self._api = FakeKubernetesApi()
        room = f"skysail.clusters.{name}.cluster"
        if name == KUBERNETES:
            patch.setattr(KubernetesOptions, "api", lambda options: self._api)
            patch.setattr(f"{room}.cluster_objects", lambda options: self._objects())
            self._api.add(node("one", InternalIP="10.0.0.1"))
        else:
            services = "LocalServices" if name == LOCAL else "DockerServices"
            patch.setattr(f"{room}.{services}", lambda *options: FakeServices(self))

    def _objects(self) -> list[Any]:
        self._api.add(service_pod("management", is_leader=True))
        if self.is_broken:
            self._api.errors["apply", "Service"] = [ClusterRefused("spec.ports: Required value")]
        made = [
            service("management", 8003, type="NodePort"),
            service("frontend", 8000, 8001, 8002, type="NodePort"),
        ]
        for each in made:
            for port in each["spec"]["ports"]:
                port["nodePort"] = 30000 + port["port"]
        return made

    def cluster(self) -> Cluster:
        return back_end(self.name).from_flags(self.data_dir, self.flags, {})

    def last(self) -> Cluster:
        return back_end(last_back_end(self.data_dir)).started_last(self.data_dir, {}, {})


@pytest.fixture(params=[LOCAL, DOCKER, KUBERNETES])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> Iterator[World]:
    yield World(request.param, tmp_path / "data", monkeypatch)
    remove_socket_directory(tmp_path / "data")


def agree(subject: str, consequence: str) -> None:
    pass


async def start(
    world: World, on_ready: Callable[[ClusterEndpoints], None] = lambda endpoints: None
) -> "asyncio.Task[None]":
    """Start the cluster, and return the task of `up` once the cluster is ready."""
    is_ready = asyncio.Event()

    def ready(endpoints: ClusterEndpoints) -> None:
        on_ready(endpoints)
        is_ready.set()

    cluster = world.cluster()
    up = asyncio.create_task(cluster.up(ready, lambda line: None))
    if isinstance(cluster, SupervisedCluster):
        # The lock of a real cluster is released when its process ends.
        up.add_done_callback(lambda _: os.close(cluster._lock))
    waiting = asyncio.create_task(is_ready.wait())
    await asyncio.wait({up, waiting}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if up.done():
        await up
    return up


async def test_up_records_the_endpoints_and_reports_them_once(world: World):
    reported: list[ClusterEndpoints] = []
    up = await start(world, reported.append)
    assert reported == [ENDPOINTS]
    assert await world.cluster().endpoints() == ENDPOINTS
    assert read_endpoints(world.data_dir) == ENDPOINTS
    assert all(isinstance(line, str) for line in world.cluster().hints(ENDPOINTS))
    await world.cluster().down(agree, is_forced=True)
    await up


async def test_up_of_a_supervised_cluster_returns_only_after_down(world: World):
    up = await start(world)
    await asyncio.sleep(0)
    assert up.done() is not world.cluster().is_supervised
    await world.cluster().down(agree, is_forced=True)
    await asyncio.wait_for(up, 20)


async def test_down_stops_the_cluster_that_was_started_last(world: World):
    up = await start(world)
    assert last_back_end(world.data_dir) == world.name
    lines = await world.last().down(agree, is_forced=True)
    await up
    assert lines
    assert not (world.data_dir / CLUSTER_FILE).exists()
    assert last_back_end(world.data_dir) == LOCAL
    with pytest.raises(FailedPrecondition):
        await world.cluster().down(agree, is_forced=True)


async def test_down_without_a_cluster_is_refused(world: World):
    with pytest.raises(FailedPrecondition):
        await world.cluster().down(agree, is_forced=True)


async def test_a_failed_start_reports_no_endpoints(world: World):
    world.is_broken = True
    with pytest.raises((StartFailed, FailedPrecondition)):
        await start(world, lambda endpoints: pytest.fail("the cluster is not ready"))
    assert not (world.data_dir / CLUSTER_FILE).exists()


async def test_a_cluster_starts_again_after_down(world: World):
    for _ in range(2):
        up = await start(world)
        await world.last().down(agree, is_forced=True)
        await up


def test_check_changes_nothing(world: World):
    world.cluster().check(lambda line: pytest.fail(line))
    assert not (world.data_dir / CLUSTER_FILE).exists()


@pytest.mark.parametrize(
    ("container_manager", "is_all_in_docker", "name"),
    [
        ("", False, LOCAL),
        ("docker", False, LOCAL),
        ("installed", False, LOCAL),
        ("", True, DOCKER),
        ("docker", True, DOCKER),
        ("kubernetes", False, KUBERNETES),
    ],
)
def test_the_options_choose_the_back_end(container_manager, is_all_in_docker, name):
    assert chosen_back_end(container_manager, is_all_in_docker=is_all_in_docker) == name


def test_every_endpoint_that_is_written_is_read(tmp_path: Path):
    every = {field.name: f"{field.name}:1" for field in dataclasses.fields(ClusterEndpoints)}
    write_endpoints(tmp_path, ClusterEndpoints(**every), pid=1)
    assert read_endpoints(tmp_path) == ClusterEndpoints(**every)

import asyncio
import os
from pathlib import Path

import pytest

from skysail.clusters.data_dir_lock import lock
from skysail.clusters.docker import cluster as docker_cluster
from skysail.clusters.docker.cluster import DockerCluster
from skysail.clusters.local.cluster import LocalCluster
from skysail.clusters.options import ClusterEndpoints, ClusterOptions
from skysail.clusters.supervised import SupervisedCluster
from skysail_common.errors import FailedPrecondition, SkysailError


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_failed_task_of_the_supervisor_stops_the_cluster_with_an_error(
    tmp_path: Path, monkeypatch, when: str
):
    stopped: list[str] = []

    async def fail() -> None:
        raise ValueError("a mistake")

    async def start(cluster: SupervisedCluster) -> ClusterEndpoints:
        cluster._tasks.start(fail(), "keep service running")
        if when == "before":
            await asyncio.Event().wait()
        return ClusterEndpoints("m:1", "g:1", "h:1", "x:1")

    async def stop(cluster: SupervisedCluster) -> None:
        stopped.append("all")

    monkeypatch.setattr(LocalCluster, "_start", start)
    monkeypatch.setattr(LocalCluster, "_stop", stop)
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "management_port": 0}
    cluster = LocalCluster(ClusterOptions(tmp_path, **ports), {})
    with pytest.raises(SkysailError, match=r"the supervisor failed: ValueError\('a mistake'\)"):
        await asyncio.wait_for(cluster.up(lambda endpoints: None, print), 10)
    assert stopped == ["all"]


async def test_down_accepts_that_another_command_removed_the_containers(tmp_path, monkeypatch):
    async def remove_nothing(*values: object) -> bool:
        return False

    monkeypatch.setattr(docker_cluster, "remove_leftovers", remove_nothing)
    os.close(lock(tmp_path))
    with pytest.raises(FailedPrecondition, match="no cluster runs in"):
        await DockerCluster(ClusterOptions(tmp_path), {}).down(lambda *texts: None, is_forced=True)

import asyncio
from pathlib import Path

import pytest

from skysail.clusters.local.cluster import LocalCluster
from skysail.clusters.options import ClusterEndpoints, ClusterOptions
from skysail.clusters.supervised import SupervisedCluster
from skysail_common.errors import SkysailError


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

"""A local cluster whose replicas are Docker containers, from the user's side."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.commands import skysail_command
from skysail_testing.container_managers import portable, run_docker, why_no_docker
from skysail_testing.processes import eventually
from skysail_testing.traffic import traffic

ROW = np.ones((1, 3))
# Pickled by value, because the image lacks packages that this module imports.
double = portable(lambda x: x * 2)


@contextmanager
def docker_cluster_in(data_dir: Path) -> Iterator[RunningCluster]:
    label = f"label=ai.skysail.data-dir={data_dir.resolve()}"
    with running_cluster(data_dir, "--container-manager", "docker") as cluster:
        yield cluster
    assert run_docker("ps", "--all", "--quiet", "--filter", label) == ""
    # A cluster keeps its images for the next one in its directory.
    images = run_docker("images", "--quiet", "--filter", label).split()
    assert images
    run_docker("rmi", "--force", *images)


@pytest.fixture(scope="module")
def docker_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    if why_no_docker():
        pytest.skip(why_no_docker())
    with docker_cluster_in(tmp_path_factory.mktemp("k")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def docker_client(docker_cluster: RunningCluster) -> Iterator[skysail.Client]:
    with docker_cluster.client() as client:
        yield client


def ready(client: skysail.Client) -> set[str]:
    found = client.describe_version("m", "1")
    return {replica.container_id for replica in found.replicas if replica.state == "READY"}


def test_a_container_killed_under_load_is_replaced_and_loses_no_query(docker_client):
    docker_client.deploy(double, name="m", version="1", example=ROW, num_replicas=2)
    docker_client.register_application("app", default_output=[0, 0, 0], slo_ms=20_000)
    docker_client.link("app", "m")
    with traffic(docker_client, "app", [1, 2, 3]) as seen:
        for _ in range(2):
            before = ready(docker_client)
            run_docker("kill", "--signal", "KILL", sorted(before)[0])
            eventually(
                lambda before=before: (
                    len(ready(docker_client) - before) == 1 and len(ready(docker_client)) == 2
                ),
                what="the replica is back",
            )
            seen.wait_for_more(20)
    assert set(seen.outcomes) == {"OK"}, (seen.outcomes, seen.problems)


def test_a_failed_deploy_shows_the_log_of_its_container(docker_client, monkeypatch):
    def warm_here(x):
        import os

        if "SKY_TEST_HERE" not in os.environ:
            raise RuntimeError("no GPU")
        return x

    monkeypatch.setenv("SKY_TEST_HERE", "1")
    with pytest.raises(skysail.errors.DeployFailed, match="failed on the warm-up query") as caught:
        docker_client.deploy(portable(warm_here), name="bad", version="1", example=ROW)
    assert "RuntimeError: no GPU" in caught.value.log_tail


def test_a_deploy_takes_seconds(docker_client):
    begin = time.monotonic()
    docker_client.deploy(double, name="quick", version="1", example=ROW)
    assert time.monotonic() - begin < 10


def test_down_after_a_crash_removes_the_containers(docker_client, tmp_path):
    with docker_cluster_in(tmp_path / "k") as cluster:
        with cluster.client() as client:
            client.deploy(double, name="m", version="1", example=ROW)
        assert "docker" in skysail_command("status", "--endpoint", cluster.management).stdout
        for pid in (cluster.pid, cluster.service_pid("skysail_management")):
            os.kill(pid, signal.SIGKILL)

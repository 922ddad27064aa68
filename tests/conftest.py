from collections.abc import Iterator
from pathlib import Path

import pytest

import skysail
from skysail_testing.clock import FakeClock, FakeLoop
from skysail_testing.clusters import RunningCluster, running_cluster

pytest_plugins = ["skysail_testing.plugin"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fake_loop(clock: FakeClock) -> FakeLoop:
    return FakeLoop(clock)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A cluster that tests share; whoever stops parts of one starts an own one."""
    with running_cluster(tmp_path_factory.mktemp("c"), "--log-level", "info") as running:
        yield running


@pytest.fixture(scope="session")
def client(cluster: RunningCluster) -> Iterator[skysail.Client]:
    with cluster.client() as client:
        yield client


@pytest.fixture
def own_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"

from collections.abc import Iterator
from pathlib import Path

import pytest

import skysail
from skysail_testing.clock import FakeClock, FakeLoop
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.interpreters import BESIDE_OTHERS, OtherInterpreters

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


@pytest.fixture(scope="session", autouse=True)
def other_interpreters(
    request: pytest.FixtureRequest,
    _nothing_survives: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OtherInterpreters | None]:
    """The other interpreters, at work from the beginning if a test of this run asks for them.

    Where tests run in several processes nothing is left idle, and they begin with that test.
    """
    if not any(item.path.name == "test_interpreters.py" for item in request.session.items):
        yield None
        return
    others = OtherInterpreters(tmp_path_factory.mktemp("i"))
    if not hasattr(request.config, "workerinput"):
        others.start(BESIDE_OTHERS)
    try:
        yield others
    finally:
        others.stop()


@pytest.fixture
def own_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"

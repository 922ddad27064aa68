"""A frontend and a model server on different transports, as with images of different age."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.models import double

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("skysail_transport") is None,
    reason="native transport is not installed",
)

EXAMPLE = np.ones((1, 3), np.float32)


@pytest.fixture(params=["grpc", "native"])
def mixed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[RunningCluster, skysail.Client, str]]:
    """A cluster whose frontend uses one transport, with the name of the other."""
    monkeypatch.setenv("SKYSAIL_TRANSPORT", request.param)
    other = "grpc" if request.param == "native" else "native"
    with running_cluster(tmp_path / "d", "--log-level", "info") as cluster:
        with cluster.client() as client:
            yield cluster, client, other


def transports_in(log: str) -> set[str]:
    """Return the transports that a log names."""
    return {name for name in ("grpc", "native") if f"transport={name}" in log}


def test_frontend_and_replica_on_different_transports_work_together(mixed):
    cluster, client, other = mixed
    client.deploy(
        double, name="double", version="1", example=EXAMPLE, num_replicas=2,
        environment={"SKYSAIL_TRANSPORT": other},
    )  # fmt: skip
    queries = [np.full(3, number, np.float32) for number in range(200)]
    answers = client.predict_batch("double", queries)
    assert [answer.output.tolist() for answer in answers] == [
        (2 * each).tolist() for each in queries
    ]
    (ours,) = {"grpc", "native"} - {other}
    assert transports_in((cluster.data_dir / "logs" / "cluster.log").read_text()) == {ours}
    assert transports_in("\n".join(each.line for each in client.logs("double"))) == {other}
    client.scale("double", 1)
    assert client.predict("double", queries[7]).output.tolist() == [14.0, 14.0, 14.0]
    client.undeploy("double", force=True)

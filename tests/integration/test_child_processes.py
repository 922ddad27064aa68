"""Replicas survive and stop with models that fork, use signals and leave threads."""

from collections.abc import Iterator

import numpy as np
import psutil
import pytest

import skysail
from skysail import errors
from skysail_testing import forking_models as models
from skysail_testing.clusters import RunningCluster
from skysail_testing.processes import eventually

ROW = np.ones((1, 3))
SOON_S = 15.0


def replica_of(cluster: RunningCluster, client: skysail.Client, model: str) -> psutil.Process:
    (replica,) = client.describe_version(model).replicas
    return psutil.Process(cluster.replica_pid(replica.container_id))


@pytest.fixture(scope="module")
def children(cluster: RunningCluster, client: skysail.Client) -> Iterator[psutil.Process]:
    client.deploy(models.by_children, name="children", version="1", example=["none"])
    yield replica_of(cluster, client, "children")
    client.undeploy("children", force=True)


@pytest.mark.parametrize("way", sorted(models.WAYS))
def test_a_model_may_use_child_processes(client, children, way):
    for _ in range(3):
        assert client.predict("children", way, timeout_s=30).output == way
    assert client.predict("children", "none").output == "none"
    assert children.is_running()


def test_a_surviving_child_holds_no_connection_of_the_replica(client, children):
    assert client.predict("children", "leaves", timeout_s=30).output == "leaves"
    (child,) = (
        each for each in children.children() if "resource_tracker" not in str(each.cmdline())
    )
    own = {each.laddr for each in children.net_connections("unix") if each.laddr}
    assert own
    eventually(
        lambda: not own & {each.laddr for each in child.net_connections("unix")},
        what="the child has let go",
    )
    child.kill()


def test_user_code_in_a_fork_does_not_affect_the_replica(client, children):
    for way in ("forgets", "exits", "fails"):
        assert client.predict("children", way, timeout_s=30).output == way
    assert client.predict("children", "none").output == "none"
    assert children.is_running()


@pytest.mark.parametrize("model", [models.leaves_a_thread, models.takes_signals])
def test_a_replica_stops_despite_threads_and_signal_handlers_of_its_model(cluster, client, model):
    name = model.__name__.replace("_", "-")
    client.deploy(model, name=name, version="1", example=ROW)
    client.predict(name, [1, 7, 3])
    replica = replica_of(cluster, client, name)
    replica.terminate()
    replica.wait(SOON_S)
    eventually(lambda: client.predict(name, [1, 2, 3]).outcome == "OK", what="the replica is back")
    client.undeploy(name, force=True)


def test_sigterm_handled_by_the_model_stops_the_replica(cluster, client):
    client.deploy(models.handles_sigterm, name="loops", version="1", example=ROW)
    replica = replica_of(cluster, client, "loops")
    assert client.predict("loops", [1, 7, 3]).output.tolist() == [1, 7, 3]
    replica.wait(SOON_S)
    client.undeploy("loops", force=True)


def test_a_replica_without_memory_is_replaced(cluster, client):
    client.deploy(models.spends_memory, name="spends", version="1", example=ROW)
    replica = replica_of(cluster, client, "spends")
    for value in (7, 1, 1):
        with pytest.raises(errors.ModelFailed, match="MemoryError"):
            client.predict("spends", [value, 2, 3])
    replica.wait(SOON_S)
    eventually(lambda: client.predict("spends", [1, 2, 3]).outcome == "OK", what="it is replaced")
    (found,) = client.describe_version("spends").replicas
    assert found.num_restarts == 1
    client.undeploy("spends", force=True)


def test_a_version_that_runs_out_of_memory_in_its_warm_up_is_not_deployed(client):
    with pytest.raises(errors.DeployFailed, match="MemoryError"):
        client.deploy(models.spends_memory_early, name="spent", version="1", example=ROW)

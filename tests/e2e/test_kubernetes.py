"""A cluster on Kubernetes, as its users and its operators meet it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import skysail
from skysail_testing.clusters import skysail_command
from skysail_testing.container_managers import portable
from skysail_testing.kubernetes_clusters import kubernetes_cluster, why_no_kubernetes
from skysail_testing.processes import eventually
from skysail_testing.skysail_on_kubernetes import OnKubernetes, new_name, skysail_on_kubernetes
from skysail_testing.traffic import Traffic, traffic

ROW = np.ones((1, 3))
# By value: the module of the tests needs packages that the image has not.
double = portable(lambda x: x * 2)
triple = portable(lambda x: x * 3)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnKubernetes]:
    if reason := why_no_kubernetes():
        pytest.skip(reason)
    with skysail_on_kubernetes(tmp_path_factory.mktemp("k"), new_name()) as cluster:
        with cluster.client() as client:
            client.deploy(double, name="m", version="1", example=ROW, num_replicas=2)
            client.register_application("app", default_output=[0, 0, 0], slo_ms=20_000)
            client.link("app", "m")
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: OnKubernetes) -> Iterator[skysail.Client]:
    with cluster.client() as client:
        yield client


def ready(client: skysail.Client, model: str = "m", version: str = "1") -> set[str]:
    """Return the pods of the replicas that take batches."""
    found = client.describe_version(model, version)
    return {each.container_id for each in found.replicas if each.state == "READY"}


def reasons(client: skysail.Client, model: str, version: str) -> list[str]:
    """Return what `status` tells of replicas."""
    versions = [
        each
        for found in client.status().models
        for each in found.versions
        if (each.model, each.version) == (model, version)
    ]
    return [each.reason for found in versions for each in found.replicas]


def assert_all_answered(seen: Traffic) -> None:
    assert set(seen.outcomes) == {"OK"}, (seen.outcomes, seen.problems[:3])


def test_clients_and_commands_find_it_by_its_data_directory(cluster, monkeypatch):
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(cluster.data_dir))
    with skysail.Client() as client:
        # At the port of a node, not where frontends are within the cluster.
        assert client.get_query_addr() == cluster.http
        assert list(client.predict("app", [1, 2, 3]).output) == [2, 4, 6]
        assert client.status().container_manager == "kubernetes"
    status = skysail_command("status")
    assert "kubernetes" in status.stdout
    assert "m:1/1" in status.stdout
    assert "2" in skysail_command("predict", "app", "[1, 2, 3]").stdout


def test_versions_and_their_number_change_under_load(cluster, client):
    with traffic(client, "app", [1, 2, 3], callers=3) as seen:
        client.deploy(triple, name="m", version="2", example=ROW)
        seen.wait_for_more(20)
        assert client.rollback("m") == "1"
        seen.wait_for_more(20)
        client.promote("m", "2")
        client.rollback("m")
        client.undeploy("m", "2")
        client.scale("m", 3, version="1")
        eventually(lambda: len(ready(client)) == 3, what="three replicas")
        client.scale("m", 1, version="1")
        eventually(lambda: len(cluster.pods("model-server")) == 1, what="one replica")
        seen.wait_for_more(20)
        client.scale("m", 2, version="1")
        eventually(lambda: len(ready(client)) == 2, what="two replicas")
    assert_all_answered(seen)
    assert {"1", "2"} <= set(seen.versions)


def test_what_goes_wrong_in_a_pod_is_told_to_whoever_deploys(client, monkeypatch):
    def needs_what_is_not_there(x):
        import os

        if "SKY_TEST_HERE" not in os.environ:
            import no_such_module  # noqa: F401
        return x

    monkeypatch.setenv("SKY_TEST_HERE", "1")
    with pytest.raises(skysail.errors.DeployFailed) as caught:
        client.deploy(portable(needs_what_is_not_there), name="m", version="bad", example=ROW)
    assert "No module named 'no_such_module'" in caught.value.log_tail
    assert client.predict("app", [1, 2, 3]).version == "1"


def test_a_version_that_no_node_can_hold_is_told_within_seconds(client):
    begin = time.monotonic()
    told: dict[str, float] = {}

    def note(event: skysail.DeployEvent) -> None:
        told.setdefault(event.message, time.monotonic() - begin)

    with pytest.raises(skysail.errors.DeployFailed, match="no node can hold it"):
        client.deploy(
            double, name="m", version="huge", example=ROW, cpus=1000, start_timeout_s=2, on_event=note
        )
    (seconds,) = [at for text, at in told.items() if "Insufficient cpu" in text][:1]
    assert seconds < 4, told
    assert client.predict("app", [1, 2, 3]).version == "1"


def test_a_pod_that_is_deleted_under_load_loses_no_query(cluster, client):
    before = ready(client)
    with traffic(client, "app", [1, 2, 3], callers=3) as seen:
        cluster.kubectl("delete", "pod", min(before), "--wait=false")
        eventually(
            lambda: len(ready(client)) == 2 and len(ready(client) - before) == 1,
            what="another in its place",
        )
        seen.wait_for_more(20)
    assert_all_answered(seen)


@contextmanager
def cordoned_node() -> Iterator[None]:
    """Have the only node take no more pods."""
    kubernetes = kubernetes_cluster()
    (node,) = kubernetes.json("get", "nodes")["items"]
    name = node["metadata"]["name"]
    kubernetes.kubectl("cordon", name)
    try:
        yield
    finally:
        kubernetes.kubectl("uncordon", name)


def test_a_node_is_drained_of_one_replica_at_a_time(cluster, client):
    first, second = sorted(ready(client))
    with traffic(client, "app", [1, 2, 3], callers=3) as seen:
        with cordoned_node():
            assert cluster.evict(first)
            eventually(lambda: ready(client) == {second}, what="the first goes")
            # Nothing can take its place, so that the last one must stay.
            assert not cluster.evict(second)
        eventually(lambda: len(ready(client)) == 2, what="another in its place")
        assert eventually(lambda: cluster.evict(second), what="the second may go")
        eventually(
            lambda: len(ready(client) - {first, second}) == 2, what="another in its place, too"
        )
        seen.wait_for_more(20)
    assert_all_answered(seen)


def knows_its_replicas(client: skysail.Client, pods: set[str]) -> bool:
    try:
        return ready(client) == pods
    except skysail.SkysailError:
        return False


def test_management_that_dies_under_load_takes_its_replicas_over(cluster, client):
    replicas = ready(client)
    (leader,) = cluster.leaders()
    with traffic(client, "app", [1, 2, 3], callers=3) as seen:
        # As when its node is lost: it lets go of nothing.
        cluster.kubectl("delete", "pod", leader, "--force", "--grace-period=0")
        eventually(lambda: cluster.leaders() - {leader}, 40, "another leads")
        eventually(lambda: knows_its_replicas(client, replicas), what="it knows its replicas")
        seen.wait_for_more(20)
    assert_all_answered(seen)
    assert cluster.pod_names("model-server") == replicas
    assert client.describe_model("m").current_version == "1"


def test_a_standby_leads_when_the_leader_goes(cluster, client):
    replicas = ready(client)
    (leader,) = cluster.leaders()
    cluster.kubectl("scale", "deployment/skysail-management", "--replicas=2")
    eventually(lambda: len(cluster.ready_pods("management")) == 2, 40, "a standby")
    (standby,) = cluster.pod_names("management") - {leader}
    assert cluster.leaders() == {leader}
    with traffic(client, "app", [1, 2, 3], callers=3) as seen:
        begin = time.monotonic()
        cluster.kubectl("delete", "pod", leader, "--wait=false")
        eventually(lambda: cluster.leaders() == {standby}, what="the standby leads")
        eventually(lambda: knows_its_replicas(client, replicas), what="it knows its replicas")
        assert time.monotonic() - begin < 10
        seen.wait_for_more(20)
    assert_all_answered(seen)
    eventually(lambda: len(cluster.ready_pods("management")) == 2, 40, "another standby")
    # It works, and not only for those who ask.
    cluster.kubectl("delete", "pod", min(replicas), "--wait=false")
    eventually(lambda: len(ready(client) - {min(replicas)}) == 2, what="another in its place")
    assert cluster.leaders() == {standby}
    cluster.kubectl("scale", "deployment/skysail-management", "--replicas=1")
    eventually(lambda: len(cluster.leaders()) == 1 == len(cluster.pods("management")), 40, "one")
    eventually(lambda: knows_its_replicas(client, cluster.pod_names("model-server")), what="it leads")

"""Disruptions of a cluster on Kubernetes under load: pods, nodes, leaders and a wrong password."""

import json
import time

import pytest

from skysail_testing.kubernetes_clusters import kubernetes_cluster
from skysail_testing.kubernetes_traffic import (
    assert_all_answered,
    knows_its_replicas,
    ready,
    soon,
    steady,
)
from skysail_testing.skysail_on_kubernetes import OnKubernetes

pytestmark = pytest.mark.kubernetes


def test_a_wrong_store_password_stops_a_rollout_at_the_first_pod(cluster, client):
    secret = ("secret", "skysail-store")
    right = cluster.json("get", *secret)["data"]["password"]
    pods = ready(client)

    def set_password(value: str) -> None:
        change = json.dumps({"data": {"password": value}})
        cluster.kubectl("patch", *secret, "--type", "merge", "--patch", change)

    (leader,) = cluster.leaders()
    # The new pod starts beside the leader, as in the overlay `production`.
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    change = json.dumps({"spec": {"strategy": strategy}})
    cluster.kubectl("patch", "deployment/skysail-management", "--patch", change)
    try:
        set_password("d3Jvbmc=")
        cluster.kubectl("rollout", "restart", "deployment/skysail-management")
        (new,) = soon(lambda: cluster.pod_names("management") - {leader}, "a new pod")
        soon(lambda: "refuses" in logs_of(cluster, new), "it says why")
        assert [pod["metadata"]["name"] for pod in cluster.ready_pods("management")] == [leader]
        assert cluster.leaders() == {leader}
    finally:
        set_password(right)
        cluster.kubectl("rollout", "restart", "deployment/skysail-management")
        cluster.kubectl("rollout", "status", "deployment/skysail-management", "--timeout=90s")
        change = json.dumps({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}})
        cluster.kubectl("patch", "deployment/skysail-management", "--patch", change)
    soon(lambda: knows_its_replicas(client, pods), "another leads")


def logs_of(cluster: OnKubernetes, pod: str) -> str:
    """Return the log of a pod; empty before its container starts."""
    try:
        return cluster.kubectl("logs", pod)
    except AssertionError:
        return ""


def test_a_pod_deleted_under_load_loses_no_query(cluster, client):
    before = ready(client)
    with steady(client) as seen:
        cluster.kubectl("delete", "pod", min(before), "--wait=false")
        soon(
            lambda: len(ready(client)) == 2 and len(ready(client) - before) == 1,
            "another in its place",
        )
        seen.wait_for_more(20)
    assert_all_answered(seen)


def test_a_node_drain_evicts_one_replica_at_a_time(cluster, client):
    first, second = sorted(ready(client))
    with steady(client) as seen:
        with kubernetes_cluster().cordoned_node():
            assert cluster.evict(first)
            soon(lambda: ready(client) == {second}, "the first goes")
            # The last replica must stay because no node can run another.
            assert not cluster.evict(second)
        soon(lambda: len(ready(client)) == 2, "another in its place")
        assert soon(lambda: cluster.evict(second), "the second may go")
        soon(lambda: len(ready(client) - {first, second}) == 2, "another in its place, too")
        seen.wait_for_more(20)
    assert_all_answered(seen)


def test_the_next_management_adopts_replicas_under_load(cluster, client):
    replicas = ready(client)
    (leader,) = cluster.leaders()
    with steady(client) as seen:
        # A forced deletion releases nothing, as when a node is lost.
        cluster.kubectl("delete", "pod", leader, "--force", "--grace-period=0")
        soon(lambda: cluster.leaders() - {leader}, "another leads")
        soon(lambda: knows_its_replicas(client, replicas), "it knows its replicas")
        seen.wait_for_more(20)
    assert_all_answered(seen)
    assert cluster.pod_names("model-server") == replicas
    assert client.describe_model("m").current_version == "1"


def test_a_standby_succeeds_a_deleted_leader(cluster, client):
    replicas = ready(client)
    (leader,) = cluster.leaders()
    cluster.kubectl("scale", "deployment/skysail-management", "--replicas=2")
    soon(lambda: len(cluster.ready_pods("management")) == 2, "a standby")
    (standby,) = cluster.pod_names("management") - {leader}
    assert cluster.leaders() == {leader}
    with steady(client) as seen:
        begin = time.monotonic()
        cluster.kubectl("delete", "pod", leader, "--wait=false")
        soon(lambda: cluster.leaders() == {standby}, "the standby leads")
        soon(lambda: knows_its_replicas(client, replicas), "it knows its replicas")
        assert time.monotonic() - begin < 10
        seen.wait_for_more(20)
    assert_all_answered(seen)
    soon(lambda: len(cluster.ready_pods("management")) == 2, "another standby")
    # The new leader also replaces deleted pods.
    cluster.kubectl("delete", "pod", min(replicas), "--wait=false")
    soon(lambda: len(ready(client) - {min(replicas)}) == 2, "another in its place")
    assert cluster.leaders() == {standby}
    cluster.kubectl("scale", "deployment/skysail-management", "--replicas=1")
    soon(lambda: len(cluster.leaders()) == 1 == len(cluster.pods("management")), "one")
    soon(lambda: knows_its_replicas(client, cluster.pod_names("model-server")), "it leads")

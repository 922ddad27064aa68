"""Clusters beside each other, in one namespace and in two."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from skysail_testing.kubernetes_traffic import ROW, assert_all_answered, soon, steady, triple
from skysail_testing.skysail_on_kubernetes import (
    OnKubernetes,
    named_after,
    new_name,
    objects_in,
    skysail_on_kubernetes,
)

pytestmark = pytest.mark.kubernetes


def deploy_and_ask(cluster: OnKubernetes) -> list[float]:
    with cluster.client() as client:
        client.deploy(triple, name="m", version="1", example=ROW)
        assert client.status().cluster == cluster.name
        assert [each.name for each in client.models()] == ["m"]
        return list(client.predict("m", [1.0, 2.0, 3.0]).output)


@pytest.mark.timeout(300)
def test_clusters_side_by_side_are_isolated_and_leave_nothing_behind(cluster, client, tmp_path):
    before = objects_in(cluster.namespace)
    namespace = new_name()

    def in_the_same_namespace() -> None:
        with skysail_on_kubernetes(tmp_path / "b", cluster.namespace, "blue") as blue:
            assert any("blue" in name for name in objects_in(cluster.namespace))
            assert deploy_and_ask(blue) == [3, 6, 9]

    def in_another_namespace() -> None:
        with skysail_on_kubernetes(tmp_path / "o", namespace, keeps_data=True) as other:
            assert deploy_and_ask(other) == [3, 6, 9]
        # The data stay, but no workload does.
        kinds = {name.partition("/")[0] for name in objects_in(namespace)}
        assert kinds == {"configmap", "persistentvolumeclaim", "secret", "serviceaccount"}
        # The next cluster restores the deployments.
        with skysail_on_kubernetes(tmp_path / "o", namespace) as other, other.client() as others:
            soon(lambda: others.describe_version("m", "1").num_ready == 1, "it is back")
            assert list(others.predict("m", [1.0, 2.0, 3.0]).output) == [3, 6, 9]
        assert named_after(namespace) == []

    with steady(client) as seen, ThreadPoolExecutor() as threads:
        for each in [threads.submit(in_the_same_namespace), threads.submit(in_another_namespace)]:
            each.result()
    assert_all_answered(seen)
    # The comparison ignores frontends because the autoscaler still changes them.
    left = {name for name in objects_in(cluster.namespace) - before if "frontend" not in name}
    assert left == set()
    assert [name for name in named_after(cluster.namespace) if "blue" in name] == []

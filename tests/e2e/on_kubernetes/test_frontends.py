"""Frontends on Kubernetes scale with their load."""

import pytest

import skysail
from skysail_testing.container_managers import portable
from skysail_testing.kubernetes_traffic import ROW, assert_all_answered, soon
from skysail_testing.traffic import traffic

pytestmark = pytest.mark.kubernetes


def test_frontends_scale_with_load_and_each_reaches_every_replica(cluster, client):
    def where(x):
        import os

        return [float(os.environ.get("SKYSAIL_REPLICA_INDEX", "-1")) for _ in x]

    client.deploy(portable(where), name="where", version="1", example=ROW, num_replicas=2)
    with traffic(client, "app", [1, 2, 3], callers=8) as seen:
        soon(lambda: len(cluster.ready_pods("frontend")) >= 2, "the autoscaler adds a frontend")
        for pod in cluster.ready_pods("frontend"):
            endpoint = f"{pod['status']['podIP']}:8001"
            with skysail.Client(cluster.management, query_endpoint=endpoint) as direct:

                def replicas(direct: skysail.Client = direct) -> set[float]:
                    found = direct.predict_batch("where", [[1.0, 2.0, 3.0]] * 8)
                    return {float(each.output) for each in found}

                answered_by: set[float] = set()
                soon(
                    lambda seen=answered_by, ask=replicas: seen.update(ask()) or seen == {0, 1},
                    f"{endpoint} talks to both replicas",
                )
    assert_all_answered(seen)
    client.undeploy("where", "1", force=True)

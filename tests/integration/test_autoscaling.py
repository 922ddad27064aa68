"""Replicas follow the load, and no query is lost by it."""

from collections.abc import Iterator

import numpy as np
import pytest

import skysail
from skysail import errors
from skysail.descriptions import Autoscaling
from skysail_testing import models
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.metrics_page import scrape
from skysail_testing.processes import eventually
from skysail_testing.traffic import traffic

ROW = np.full((1, 3), 0.025)
MOST = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKYSAIL_MANAGEMENT_AUTOSCALING_INTERVAL_S", "0.2")
        patch.setenv("SKYSAIL_MANAGEMENT_AUTOSCALING_SHRINK_AFTER_S", "1.5")
        flags = ("--log-level", "info", "--workers", "2")
        with running_cluster(tmp_path_factory.mktemp("a"), *flags) as running:
            yield running


@pytest.fixture(scope="module")
def client(cluster: RunningCluster) -> Iterator[skysail.Client]:
    with cluster.client() as client:
        # A replica sleeps, so it serves 40 rows a second without slowing other replicas.
        client.deploy(models.nap, name="nap", version="1", example=ROW, max_batch_size=1)
        client.register_application("app", default_output=[0, 0, 0], slo_ms=10_000)
        client.link("app", "nap")
        yield client


def num_wanted(client: skysail.Client) -> int:
    deployment = client.describe_version("nap").deployment
    assert deployment is not None
    return deployment.num_replicas


def is_at(client: skysail.Client, number: int) -> bool:
    found = client.describe_version("nap")
    assert found.deployment is not None
    assert 1 <= found.deployment.num_replicas <= MOST
    return found.deployment.num_replicas == found.num_ready == len(found.replicas) == number


def test_replicas_grow_and_shrink_with_the_load(cluster, client):
    found = client.autoscale("nap", max_replicas=MOST)
    assert found.deployment is not None
    assert found.deployment.autoscaling == Autoscaling(1, MOST)
    assert found.deployment.num_replicas == 1
    assert repr(found).startswith("<Version nap:1, 1 of 1 replicas ready (1 to 3 with its load)")
    with traffic(client, "app", ROW[0], callers=8) as seen:
        eventually(lambda: is_at(client, MOST), what="there are as many replicas as may be")
        seen.wait_for_more(50)
        page = scrape(cluster.metrics)
        assert page.sum("skysail_arrived_rows_total", model="nap") >= seen.total - 8
        capacity = page.sum("skysail_replica_capacity_rows_per_second", model="nap")
        assert 20 < capacity < 41
    # No query got the default output either.
    assert set(seen.outcomes) == {"OK"}, seen.problems[:3]
    eventually(lambda: is_at(client, 1), what="one replica is left")
    assert client.predict("app", ROW[0]).outcome == "OK"


def test_scale_turns_autoscaling_off(client):
    found = client.autoscale("nap", min_replicas=2, max_replicas=MOST)
    assert num_wanted(client) == 2
    # The second deploy keeps the present number of replicas.
    client.deploy(models.nap, name="nap", version="1", example=ROW, max_batch_size=1)
    assert is_at(client, 2)
    found = client.scale("nap", 1)
    assert found.deployment is not None
    assert found.deployment.autoscaling is None
    with traffic(client, "app", ROW[0], callers=8) as seen:
        seen.wait_for_more(100)
    assert num_wanted(client) == 1
    assert set(seen.outcomes) == {"OK"}, seen.problems[:3]


@pytest.mark.parametrize(("least", "most"), [(0, 2), (3, 2), (1, 1001)])
def test_invalid_bounds_are_refused(client, least, most):
    with pytest.raises(errors.InvalidInput, match="min_replicas must be at least 1"):
        client.autoscale("nap", min_replicas=least, max_replicas=most)

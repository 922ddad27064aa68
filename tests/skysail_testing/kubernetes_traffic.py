"""Models, queries and waits that the tests of a cluster on Kubernetes share."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

import skysail
from skysail_testing.container_managers import portable
from skysail_testing.processes import eventually
from skysail_testing.traffic import Traffic, traffic

ROW = np.ones((1, 3))
# Pickled by value, because the image lacks packages that this module imports.
double = portable(lambda x: x * 2)
triple = portable(lambda x: x * 3)


def soon(condition: Callable[[], object], what: str) -> object:
    """Return the first true value of a condition, within a limit for a busy machine."""
    return eventually(condition, 60, what)


def ready(client: skysail.Client, model: str = "m", version: str = "1") -> set[str]:
    """Return the pods of all ready replicas of a version."""
    found = client.describe_version(model, version)
    return {each.container_id for each in found.replicas if each.state == "READY"}


def steady(client: skysail.Client) -> AbstractContextManager[Traffic]:
    """Send queries at a low rate, which leaves most of this machine to the cluster."""
    return traffic(client, "app", [1, 2, 3], callers=3, pause_s=0.01)


def assert_all_answered(seen: Traffic) -> None:
    assert set(seen.outcomes) == {"OK"}, (seen.outcomes, seen.problems[:3])


def knows_its_replicas(client: skysail.Client, pods: set[str]) -> bool:
    try:
        return ready(client) == pods
    except skysail.SkysailError:
        return False

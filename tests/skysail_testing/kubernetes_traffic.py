"""Models, queries and waits that the tests of a cluster on Kubernetes share."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

import skysail
from skysail_testing.container_managers import portable
from skysail_testing.processes import eventually
from skysail_testing.traffic import Traffic, traffic

ROW = np.ones((1, 3))
# By value: the module of the tests needs packages that the image has not.
double = portable(lambda x: x * 2)
triple = portable(lambda x: x * 3)


def soon(condition: Callable[[], object], what: str) -> object:
    """Return the first true value of a condition; the machine may be busy."""
    return eventually(condition, 60, what)


def ready(client: skysail.Client, model: str = "m", version: str = "1") -> set[str]:
    """Return the pods of the replicas that take batches."""
    found = client.describe_version(model, version)
    return {each.container_id for each in found.replicas if each.state == "READY"}


def steady(client: skysail.Client) -> AbstractContextManager[Traffic]:
    """Ask all along, and leave most of this machine to the cluster."""
    return traffic(client, "app", [1, 2, 3], callers=3, pause_s=0.01)


def assert_all_answered(seen: Traffic) -> None:
    assert set(seen.outcomes) == {"OK"}, (seen.outcomes, seen.problems[:3])


def knows_its_replicas(client: skysail.Client, pods: set[str]) -> bool:
    try:
        return ready(client) == pods
    except skysail.SkysailError:
        return False

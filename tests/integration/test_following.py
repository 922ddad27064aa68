"""Clients follow operations to their end across restarts of management."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

import skysail
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.processes import eventually


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path_factory.mktemp("f"), "--log-level", "info") as running:
        yield running


def loads_in(duration_s: float):
    class Loaded:
        def __init__(self) -> None:
            self.duration_s = duration_s

        def __setstate__(self, state) -> None:
            import time

            self.__dict__ = state
            time.sleep(self.duration_s)

        def __call__(self, x):
            return x

    return Loaded()


def kill_management(cluster: RunningCluster) -> None:
    """Kill management once it serves; the client may still read events of its predecessor."""

    def serves() -> bool:
        with suppress(skysail.errors.Unavailable), cluster.client(timeout_s=2) as client:
            return bool(client.status())
        return False

    eventually(serves, what="management serves")
    os.kill(cluster.service_pid("skysail_management"), signal.SIGKILL)


def test_a_deploy_survives_kills_of_management(own_cluster):
    steps: list[str] = []

    def on_event(event: skysail.DeployEvent) -> None:
        steps.append(event.step)
        if steps == ["REGISTERED"] or (event.step == "STARTING" and steps.count("STARTING") == 1):
            kill_management(own_cluster)

    with own_cluster.client() as client:
        version = client.deploy(
            loads_in(3), name="killed", version="1", example=np.ones((1, 1)), on_event=on_event
        )
        assert version.num_ready == 1
        assert steps[-1] == "DONE"
        assert client.describe_model("killed").current_version == "1"
        assert client.predict("killed", [4.0]).output == 4.0


def test_scale_waits_through_a_kill_of_management(own_cluster):
    with own_cluster.client() as client:
        client.deploy(loads_in(2), name="scaled", version="1", example=np.ones((1, 1)))
        timer = threading.Timer(0.5, kill_management, [own_cluster])
        timer.start()
        try:
            assert client.scale("scaled", 2).num_ready == 2
        finally:
            timer.join()


def test_an_operation_without_management_fails_at_once():
    begin = time.monotonic()
    with skysail.Client("127.0.0.1:1") as client, pytest.raises(skysail.errors.Unavailable):
        client.scale("a", 1)
    assert time.monotonic() - begin < 5

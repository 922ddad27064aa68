"""Deploys that register an application, on a cluster of real processes."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail import errors
from skysail_testing.clusters import running_cluster
from skysail_testing.commands import skysail_in_process

ROW = np.ones((1, 2))


def double(x):
    return x * 2


def refuse_elsewhere(home):
    def function(x):
        if os.getpid() != home:
            raise RuntimeError("no weights here")
        return x

    return function


class Slow:
    """A function that starts elsewhere only after a file exists."""

    def __init__(self, gate: Path) -> None:
        self.gate = str(gate)
        self.home = os.getpid()

    def __call__(self, x):
        for _ in range(1200):
            if os.getpid() == self.home or os.path.exists(self.gate):
                return x * 3
            time.sleep(0.05)
        raise RuntimeError("the gate never opened")


for each in (double, refuse_elsewhere, Slow):
    each.__module__ = "__main__"


def test_one_call_deploys_and_serves_an_application(client):
    events = []
    options = {"application": "twice", "slo_ms": 9000, "default_output": [0, 0]}
    for step in ("ROUTED", "REGISTERED"):
        events.clear()
        found = client.deploy(double, name="double", example=ROW, on_event=events.append, **options)
        assert found.is_current
        assert [event.step for event in events][-2:] == [step, "DONE"]
    prediction = client.predict("twice", [1.0, 2.0])
    assert prediction.output.tolist() == [2.0, 4.0]
    (application,) = [each for each in client.applications() if each.name == "twice"]
    assert (application.input_type, application.slo_ms) == ("doubles", 9000)
    assert application.default_output == [0, 0]
    with pytest.raises(errors.AlreadyExists, match="'twice' is registered with other values"):
        client.deploy(double, name="double", example=ROW, application="twice", slo_ms=10)
    with pytest.raises(errors.InvalidInput, match="give application too"):
        client.deploy(double, name="double", example=ROW, slo_ms=10)
    client.unregister_application("twice")


def test_a_failed_deploy_leaves_no_application(client):
    with pytest.raises(errors.DeployFailed, match="no weights here"):
        client.deploy(refuse_elsewhere(os.getpid()), name="lost", example=ROW, application="lost")
    assert "lost" not in [each.name for each in client.applications()]
    assert "lost" not in [each.name for each in client.models()]


def test_the_command_registers_an_application(cluster, client):
    done = skysail_in_process(
        "deploy", "math:fsum", "--name", "fsum", "--input-type", "doubles", "--no-check",
        "--app", "sums", "--slo-ms", "8000", "--default-output", "-1",
        "--endpoint", cluster.management,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (application,) = [each for each in client.applications() if each.name == "sums"]
    assert (application.slo_ms, application.default_output) == (8000, -1)
    assert application.routes == (skysail.Route("fsum"),)


def test_management_that_is_killed_during_the_deploy_leaves_nothing_half_done(tmp_path: Path):
    gate = tmp_path / "open"
    with (
        running_cluster(tmp_path / "data", has_failures=True) as cluster,
        cluster.client() as client,
    ):
        started = threading.Event()

        def see(event: skysail.DeployEvent) -> None:
            if event.step == "STARTING":
                started.set()

        with ThreadPoolExecutor() as pool:
            deploying = pool.submit(
                client.deploy, Slow(gate), name="slow", example=ROW, application="app",
                slo_ms=9000, on_event=see,
            )  # fmt: skip
            assert started.wait(60)
            os.kill(cluster.service_pid("skysail_management"), signal.SIGKILL)
            # A call waits for the next management.
            assert [each.name for each in client.models()] == ["slow"]
            assert client.applications() == []
            gate.touch()
            # The call resumes at the next management.
            assert deploying.result(90).is_current
        assert client.predict("app", [1.0, 1.0]).output.tolist() == [3.0, 3.0]

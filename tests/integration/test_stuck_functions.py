"""A function that hangs on one input: its replicas are replaced, other queries are answered."""

import threading
import time

import numpy as np

from skysail import errors
from skysail_testing.clusters import running_cluster
from skysail_testing.commands import skysail_command
from skysail_testing.processes import eventually

NUM_REPLICAS = 4


def hangs(x):
    """Hang on positive inputs."""
    import pathlib
    import threading

    if x.max() > 0:
        pathlib.Path("hangs").touch()
        threading.Event().wait()
    return x


hangs.__module__ = "__main__"


def test_replicas_with_a_stuck_function_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("SKYSAIL_MANAGEMENT_STUCK_AFTER_S", "1")
    with running_cluster(tmp_path / "c") as cluster, cluster.client() as client:
        client.deploy(
            hangs, name="h", version="1", example=np.zeros((1, 1)), num_replicas=NUM_REPLICAS
        )
        before = {each.container_id for each in client.describe_version("h").replicas}
        for _ in range(50):
            client.predict("h", np.zeros(1), timeout_s=5)
        failures: list[Exception] = []

        def poison() -> None:
            try:
                client.predict("h", np.ones(1), timeout_s=60)
            except errors.SkysailError as error:
                failures.append(error)

        asking = threading.Thread(target=poison)
        asking.start()
        # Later queries must not share its batch, so the test waits until the function hangs.
        eventually(lambda: list(cluster.data_dir.glob("replicas/*/work/hangs")))
        try:
            slowest_s = 0.0
            while asking.is_alive():
                begin = time.monotonic()
                assert client.predict("h", np.zeros(1), timeout_s=5).output.tolist() == [0.0]
                slowest_s = max(slowest_s, time.monotonic() - begin)
        finally:
            asking.join(60)
        assert slowest_s < 0.5
        (failure,) = failures
        assert isinstance(failure, errors.ModelFailed)

        def replaced() -> bool:
            replicas = client.describe_version("h").replicas
            return len(replicas) == NUM_REPLICAS and all(each.state == "READY" for each in replicas)

        eventually(replaced, what="all replicas are ready again")
        replicas = client.describe_version("h").replicas
        lost = before - {each.container_id for each in replicas}
        # The frontend fails a query that has killed three replicas.
        assert 1 <= len(lost) <= 3
        reasons = [each.reason for each in replicas if each.num_restarts]
        assert len(reasons) == len(lost)
        assert all("no result after" in reason and "in hangs, " in reason for reason in reasons)
        shown = skysail_command("status", "--endpoint", cluster.management)
        assert "stuck" in shown.stdout, shown
        shown = skysail_command("logs", "h", "--endpoint", cluster.management)
        assert "function is stuck" in shown.stdout, shown
        assert "in hangs" in shown.stdout

"""Models that say themselves that they are unhealthy: their replicas are replaced."""

import threading

import numpy as np
import pytest

from skysail_testing.call_models import Checked
from skysail_testing.clusters import running_cluster
from skysail_testing.commands import skysail_command
from skysail_testing.processes import eventually


@pytest.mark.transport
def test_an_unhealthy_replica_is_replaced_without_a_lost_query(tmp_path, monkeypatch):
    monkeypatch.setenv("SKYSAIL_MANAGEMENT_CHECK_HEALTH_S", "0.2")
    with running_cluster(tmp_path / "c") as cluster, cluster.client() as client:
        client.deploy(Checked, name="c", example=np.zeros((1, 1)), num_replicas=2)

        def replicas():
            return client.describe_version("c").replicas

        before = {each.container_id: each for each in replicas()}
        work_dirs = sorted(cluster.data_dir.glob("replicas/*/work"))
        assert len(work_dirs) == 2
        # A model that repairs itself stays.
        (work_dirs[0] / "curable").touch()
        (work_dirs[0] / "ill").touch()
        eventually(lambda: not (work_dirs[0] / "curable").exists())
        done = threading.Event()
        failures: list[BaseException] = []
        num_answers = 0

        def ask() -> None:
            nonlocal num_answers
            with cluster.client() as asking:
                while not done.is_set():
                    try:
                        found = asking.predict("c", [float(num_answers)], timeout_s=20)
                        assert found.output.tolist() == [num_answers + 1.0]
                        num_answers += 1
                    except BaseException as error:
                        failures.append(error)
                        return

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            eventually(lambda: num_answers > 20 or failures)
            assert set(before) == {each.container_id for each in replicas()}
            (work_dirs[1] / "ill").touch()
            eventually(
                lambda: any(each.num_restarts and each.state == "READY" for each in replicas()),
                what="a replica has been replaced",
            )
            so_far = num_answers
            eventually(lambda: num_answers > so_far + 20 or failures)
        finally:
            done.set()
            thread.join(30)
        assert failures == []
        (replaced,) = [each for each in replicas() if each.num_restarts]
        assert replaced.container_id not in before
        assert replaced.reason.startswith(
            "restarted: unhealthy: its check_health failed: ConnectionError: lost the device (in "
            "check_health, "
        )
        shown = skysail_command("logs", "c", "--endpoint", cluster.management)
        assert "model is unhealthy: ConnectionError: lost the device" in shown.stdout, shown

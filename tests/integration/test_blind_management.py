"""Management exits if its watch of containers ends, and the next one adopts them."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from skysail_testing import models
from skysail_testing.clusters import running_cluster
from skysail_testing.processes import eventually

# Python imports this module in each process; it breaks one watch of management.
_SITE = """
import os, sys
from pathlib import Path

if "skysail_management" in sys.orig_argv and "--stop-replicas-only" not in sys.orig_argv:
    from skysail_management.containers.change_feed import ChangeFeed
    flag, watch = Path({flag!r}), ChangeFeed.watch

    async def blind(self):
        async for container in watch(self):
            if flag.exists():
                flag.unlink()
                raise KeyError("a bug")
            yield container

    ChangeFeed.watch = blind
"""


def test_a_management_whose_watch_ends_is_replaced_by_one_that_adopts_its_replicas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    flag = tmp_path / "blind"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_SITE.format(flag=str(flag)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    with running_cluster(tmp_path / "d", has_failures=True) as cluster, cluster.client() as client:
        client.deploy(models.double, name="m", version="1", example=np.ones((1, 3)), num_replicas=2)
        pids = {
            each.replica_id: cluster.replica_pid(each.container_id)
            for each in client.describe_version("m").replicas
        }
        management = cluster.service_pid("skysail_management")
        flag.touch()
        os.kill(pids["m:1/0"], signal.SIGKILL)
        eventually(lambda: not flag.exists(), what="the watch has ended")

        def is_whole() -> bool:
            if cluster.service_pid("skysail_management") == management:
                return False
            states = [each.state for each in client.describe_version("m").replicas]
            return states == ["READY", "READY"]

        eventually(_tolerant(is_whole), what="the next management has both replicas")
        kept = next(
            each for each in client.describe_version("m").replicas if each.replica_id == "m:1/1"
        )
        assert cluster.replica_pid(kept.container_id) == pids["m:1/1"]
        log = (cluster.data_dir / "logs" / "cluster.log").read_text()
        assert "internal error: an essential task ended (KeyError('a bug'))" in log


def _tolerant(is_so):
    """Return a condition that is false while management is down."""

    def asked() -> bool:
        try:
            return bool(is_so())
        except Exception:
            return False

    return asked

"""Limits of open files in services and replicas."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from skysail_testing import models
from skysail_testing.clusters import running_cluster

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells the limits of another process"
)

_SOFT = 300


@contextmanager
def soft_limit(soft: int) -> Iterator[int]:
    """Lower the soft limit inside the `with` block; yield the hard limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def limits_of(pid: int) -> tuple[int, int]:
    return psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)


def test_services_raise_the_soft_limit_and_replicas_keep_it(tmp_path: Path):
    with soft_limit(_SOFT) as hard, running_cluster(tmp_path, "--workers", "2") as cluster:
        management = cluster.service_pid("skysail_management")
        frontend = cluster.service_pid("skysail_frontend")
        workers = [each.pid for each in psutil.Process(frontend).children()]
        assert len(workers) == 2
        for pid in (management, frontend, *workers):
            assert limits_of(pid) == (hard, hard)
        with cluster.client() as client:
            client.deploy(models.double, name="double", version="1", example=np.ones((1, 3)))
            (replica,) = client.describe_version("double").replicas
        assert limits_of(cluster.replica_pid(replica.container_id)) == (_SOFT, hard)

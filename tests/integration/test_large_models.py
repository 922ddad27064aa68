"""A model of 3 GB: the memory of each process, and what a second replica costs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.processes import eventually

GIB = 1024**3
MIB = 1024**2
ALLOWED_BYTES = 300 * MIB

_DEPLOY = """
import json, resource, sys
import numpy as np
import skysail

class Weighted:
    def __init__(self, weights):
        self.weights = weights

    def load(self, context):
        self.file = context.file("table.bin")

    def predict(self, x):
        return x * self.weights[0]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

endpoint, table, num_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
with skysail.Client(endpoint) as client:
    client.models()
    before = peak()
    weights = np.full(num_bytes // 8, 2.0)
    client.deploy(
        Weighted(weights), name="large", version="1", example=np.ones((1, 2)),
        files={"table.bin": table},
    )
    print(json.dumps({"before": before, "after": peak()}))
"""


def peak_bytes(pid: int) -> int:
    """Return the largest resident memory of a process until now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no peak")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path_factory.mktemp("large") / "data") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def deployed(cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Deploy 1 GiB in memory with a file of 2 GiB without blocks; return peaks of the client."""
    table = tmp_path_factory.mktemp("files") / "table.bin"
    with table.open("wb") as file:
        file.truncate(2 * GIB)
    management = cluster.service_pid("skysail_management")
    before = peak_bytes(management)
    done = subprocess.run(
        [sys.executable, "-c", _DEPLOY, cluster.management, str(table), str(GIB)],
        check=False, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "management": peak_bytes(management) - before}


def container_of(cluster: RunningCluster, index: int) -> str:
    with cluster.client() as client:
        replicas = client.describe_version("large", "1").replicas
    return next(each.container_id for each in replicas if each.replica_id == f"large:1/{index}")


def test_no_process_needs_much_more_memory_than_the_model(cluster, deployed: dict[str, int]):
    assert deployed["after"] - deployed["before"] < GIB + ALLOWED_BYTES
    assert deployed["management"] < ALLOWED_BYTES
    replica = cluster.replica_pid(container_of(cluster, 0))
    # The weights are mapped, and only the pages that the model reads are resident.
    assert peak_bytes(replica) < ALLOWED_BYTES
    with cluster.client() as client:
        (output,) = client.predict("large", np.ones(2)).outputs.values()
    assert np.asarray(output).tolist() == [2.0, 2.0]


def test_a_second_replica_fetches_nothing_and_shares_the_weights(cluster, deployed):
    with cluster.client() as client:
        client.scale("large", 2, version="1")
    directories = [cluster.data_dir / "replicas" / container_of(cluster, index) for index in (0, 1)]
    stored = cluster.data_dir / "artifacts" / "blobs"
    for directory in directories:
        artifact = directory / "work" / "artifact"
        for path in ("files/table.bin", "buffers/0.bin"):
            assert any((artifact / path).samefile(each) for each in stored.iterdir())
        log = (directory / "replica.log").read_text()
        (line,) = [line for line in log.splitlines() if "artifact fetched" in line]
        fetched = int(line.partition("fetched_bytes=")[2].split()[0])
        assert fetched < MIB
    pids = [cluster.replica_pid(container_of(cluster, index)) for index in (0, 1)]
    assert sum(map(private_bytes_of_weights, pids)) < 32 * MIB


def private_bytes_of_weights(pid: int) -> int:
    """Return the memory of the weights that a process shares with no other."""
    private, is_weights = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if not line[0].isupper():
            is_weights = "buffers/0.bin" in line
        elif is_weights and line.startswith("Private_Dirty:"):
            private += int(line.split()[1]) * 1024
    return private


def test_the_files_of_a_replica_go_with_it(cluster, deployed):
    directory = cluster.data_dir / "replicas" / container_of(cluster, 0)
    with cluster.client() as client:
        client.undeploy("large", "1", force=True)
    eventually(lambda: not directory.exists())

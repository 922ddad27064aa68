"""`python -m benchmarks.kubernetes [RUNS]`: durations on Kubernetes, with the images on the nodes.

The benchmark uses the cluster of KUBECONFIG and creates its own namespaces. It measures `up` until
ready, `deploy` until the first answer, `down`, and the load of management with many versions.
"""

import asyncio
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import grpc.aio
import psutil
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import skysail
from skysail_protos.v1 import management_pb2, management_pb2_grpc

_SKYSAIL = [sys.executable, "-m", "skysail"]
_RUNS = 5
_MODELS, _VERSIONS_OF_EACH = 50, 10
_SETTLE_S, _WATCH_S = 10, 60
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_READ = "cat /proc/1/stat; grep VmRSS /proc/1/status"

Seconds = defaultdict[str, list[float]]


class _Cluster:
    def __init__(self, directory: str, namespace: str) -> None:
        record = json.loads((Path(directory) / "cluster.json").read_text())
        self.management, self.grpc = record["management"], record["grpc"]
        self._namespace = namespace

    def kubectl(self, *arguments: str) -> str:
        command = ["kubectl", "--namespace", self._namespace, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def _cluster(seconds: Seconds) -> Iterator[_Cluster]:
    namespace = f"skb-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="skb-") as directory:
        where = ["--data-dir", directory]
        flags = ["--container-manager", "kubernetes", "--namespace", namespace]

        def skysail_does(*words: str) -> None:
            subprocess.run([*_SKYSAIL, *words, *where], check=True, capture_output=True)

        try:
            _timed(seconds, "up", lambda: skysail_does("up", *flags))
            yield _Cluster(directory, namespace)
        finally:
            _timed(seconds, "down", lambda: skysail_does("down", "--yes", "--delete-data"))
            # The overlay `local` keeps its volumes on the node, which is this machine.
            shutil.rmtree(Path("/var/lib/skysail") / namespace, ignore_errors=True)


def _timed(seconds: Seconds, what: str, do: Callable[[], object]) -> None:
    begin = time.monotonic()
    do()
    seconds[what].append(time.monotonic() - begin)


def _deploys(seconds: Seconds, cluster: _Cluster) -> None:
    rows, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=2000).fit(rows, labels)
    packages = [f"scikit-learn=={version('scikit-learn')}"]

    def first_row(batch: list[list[float]]) -> list[float]:
        return [row[0] for row in batch]

    kinds = {
        "deploy without packages": (first_row, []),
        "deploy with scikit-learn to install": (model.predict, packages),
        "deploy with scikit-learn there": (model.predict, packages),
    }
    with skysail.Client(cluster.management, query_endpoint=cluster.grpc) as client:
        for number, (what, (function, needed)) in enumerate(kinds.items()):

            def deploy_and_ask(
                name: str = f"model-{number}",
                function: object = function,
                needed: list[str] = needed,
            ) -> None:
                client.deploy(
                    function, name=name, version="1", example=rows[:1], pkgs_to_install=needed
                )
                client.predict(name, rows[0])

            _timed(seconds, what, deploy_and_ask)


async def _register(cluster: _Cluster) -> None:
    def nothing(batch: list[list[float]]) -> list[float]:
        return [0.0 for _ in batch]

    async with (
        skysail.AsyncClient(cluster.management) as client,
        grpc.aio.insecure_channel(cluster.management) as channel,
    ):
        await client.deploy(nothing, name="first", version="1", example=[[0.0]])
        stub = management_pb2_grpc.ManagementServiceStub(channel)
        asked = management_pb2.DescribeVersionRequest(model="first", version="1")
        described = await stub.DescribeVersion(asked)
        for model in range(_MODELS):
            for number in range(_VERSIONS_OF_EACH):
                await stub.RegisterVersion(
                    management_pb2.RegisterVersionRequest(
                        model=f"registered-{model}",
                        version=str(number),
                        artifact_sha256=described.version.artifact_sha256,
                    )
                )


def _usage(cluster: _Cluster) -> tuple[float, float]:
    """Return the processor time of management in seconds, and its memory in MiB."""
    name = cluster.kubectl("get", "pods", "--selector", "skysail.ai/leader", "--output", "name")
    found = cluster.kubectl("exec", name.strip(), "--", "sh", "-c", _READ)
    # Fields are counted after the name, which may contain spaces: index 0 is field 3 of proc(5).
    fields = found.splitlines()[0].rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S, int(found.splitlines()[1].split()[1]) / 1024


def _many_versions(cluster: _Cluster) -> None:
    asyncio.run(_register(cluster))
    time.sleep(_SETTLE_S)
    before, _ = _usage(cluster)
    begin = time.monotonic()
    time.sleep(_WATCH_S)
    after, memory_mib = _usage(cluster)
    share = (after - before) / (time.monotonic() - begin)
    print(
        f"management with {_MODELS * _VERSIONS_OF_EACH} registered versions: "
        f"{100 * share:.1f} % of a core, {memory_mib:.0f} MiB"
    )


def main() -> None:
    """Print medians and the load of management."""
    seconds: Seconds = defaultdict(list)
    before = psutil.cpu_times()
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else _RUNS):
        with _cluster(seconds) as cluster:
            _deploys(seconds, cluster)
        print({what: round(times[-1], 1) for what, times in seconds.items()})
    after = psutil.cpu_times()
    for what, times in seconds.items():
        shown = f"{min(times):.1f} - {max(times):.1f}"
        print(f"{what}: {statistics.median(times):.1f} s, median of {len(times)} ({shown})")
    if seconds:
        total = sum(after) - sum(before)
        shares = [(total - after.idle + before.idle) / total, (after.steal - before.steal) / total]
        print("the machine was busy for {:.0%}, stolen {:.0%}".format(*shares))
    with _cluster(defaultdict(list)) as cluster:
        _many_versions(cluster)


if __name__ == "__main__":
    main()

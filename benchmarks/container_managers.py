"""`python -m benchmarks.container_managers [KIND…]`: a comparison of the container managers.

The benchmark runs one cluster for each kind: replicas as processes (`local`, always measured), as
containers (`docker`), all services in Docker (`all-in-docker`), and all on the Kubernetes cluster
of KUBECONFIG (`kubernetes`). It deploys one model twice to each cluster, and sends queries of one
caller to each in interleaved rounds. By default it measures all kinds. It needs `make images`.
"""

import json
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import skysail

_KINDS = {
    "local": [],
    "docker": ["--container-manager", "docker"],
    "all-in-docker": ["--all-in-docker"],
    "kubernetes": [
        "--container-manager",
        "kubernetes",
        "--namespace",
        f"skb-{secrets.token_hex(3)}",
    ],
}
_SKYSAIL = [sys.executable, "-m", "skysail"]
_ROUNDS = 12
_QUERIES = 300


@contextmanager
def _cluster(flags: list[str]) -> Iterator[skysail.Client]:
    names = ("http", "grpc", "metrics", "management")
    ports = [word for name in names for word in (f"--{name}-port", "0")]
    with tempfile.TemporaryDirectory(prefix="skb-") as directory:
        where = ["--data-dir", directory]
        subprocess.run([*_SKYSAIL, "up", "--detach", *where, *ports, *flags], check=True, stdout=2)
        try:
            record = json.loads((Path(directory) / "cluster.json").read_text())
            with skysail.Client(record["management"], query_endpoint=record["grpc"]) as client:
                yield client
        finally:
            removal = ["--yes", "--delete-data"] if "kubernetes" in flags else []
            subprocess.run([*_SKYSAIL, "down", *where, *removal], check=True, stdout=2)
            if "kubernetes" in flags:
                # The overlay `local` keeps its volumes on the node, which is this machine.
                shutil.rmtree(Path("/var/lib/skysail") / flags[-1], ignore_errors=True)
            elif flags:
                _remove_images(Path(directory))


def _remove_images(data_dir: Path) -> None:
    """Remove the images that a cluster keeps for the next one in its data directory."""
    for directory in (data_dir, data_dir / "docker" / "management"):
        label = f"label=ai.skysail.data-dir={directory.resolve()}"
        # Images are removed by name, because a base image is removed with the last image of it.
        command = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", label]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        if found:
            subprocess.run(["docker", "rmi", "--force", *found], check=True, stdout=2)


def main() -> None:
    """Print the durations of deploys and queries, and the ratio of queries to local replicas."""
    rows, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=2000).fit(rows, labels)
    packages = [f"scikit-learn=={version('scikit-learn')}"]
    with ExitStack() as stack:
        clients = {}
        for kind, flags in _KINDS.items():
            if kind not in ("local", *(sys.argv[1:] or _KINDS)):
                continue
            client = clients[kind] = stack.enter_context(_cluster(flags))
            for number in ("1", "2"):
                begin = time.monotonic()
                client.deploy(
                    model.predict,
                    name="digits",
                    version=number,
                    example=rows[:1],
                    pkgs_to_install=packages if flags else [],
                )
                client.predict("digits", rows[0])
                print(f"{kind}: version {number} answered after {time.monotonic() - begin:.1f} s")
        medians: dict[str, list[float]] = {kind: [] for kind in clients}
        before = psutil.cpu_times()
        for _ in range(_ROUNDS):
            for kind, client in clients.items():
                times = []
                for row in rows[:_QUERIES]:
                    begin = time.perf_counter()
                    client.predict("digits", row)
                    times.append(time.perf_counter() - begin)
                medians[kind].append(statistics.median(times))
        after = psutil.cpu_times()
    stolen = (after.steal - before.steal) / (sum(after) - sum(before))
    print(f"stolen: {100 * stolen:.0f} % of the machine's time")
    for kind, found in medians.items():
        # The first round does not count, because everything warms up in it.
        ratios = [one / local for one, local in zip(found, medians["local"], strict=True)][1:]
        print(
            f"{kind}: p50 {statistics.median(found[1:]) * 1e3:.2f} ms, "
            f"{statistics.median(ratios):.2f} x local"
        )


if __name__ == "__main__":
    main()

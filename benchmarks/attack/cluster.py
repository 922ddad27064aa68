"""A cluster on free ports of this machine with the models under attack."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

import skysail
from benchmarks.attack import models

_UP_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Endpoints:
    """The endpoints of a cluster."""

    grpc: str
    http: str
    metrics: str


@dataclass(frozen=True)
class AttackedCluster:
    """A running cluster."""

    endpoints: Endpoints
    pid: int
    log_file: Path

    def pids(self) -> dict[str, int]:
        """Return the ids of the running processes, by their role."""
        found: dict[str, int] = {}
        for child in psutil.Process(self.pid).children(recursive=True):
            try:
                words = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            module = next((word for word in words if word.startswith("skysail_")), "store")
            name = module.removeprefix("skysail_")
            found[name if name not in found else f"{name} {child.pid}"] = child.pid
        return found


@contextmanager
def attacked_cluster() -> Iterator[AttackedCluster]:
    """Run a cluster with one frontend inside the `with` block."""
    with tempfile.TemporaryDirectory(prefix="skysail-attack-") as directory:
        skysail_command = [sys.executable, "-m", "skysail"]
        place = ["--data-dir", directory]
        ports = [
            part
            for name in ("http", "grpc", "metrics", "management")
            for part in (f"--{name}-port", "0")
        ]
        up = [*skysail_command, "up", "--detach", *place, *ports]
        subprocess.run(up, check=True, stdout=subprocess.DEVNULL, timeout=_UP_TIMEOUT_S)
        try:
            record = json.loads((Path(directory) / "cluster.json").read_text())
            with skysail.Client(record["management"], query_endpoint=record["grpc"]) as client:
                models.deploy(client)
            endpoints = Endpoints(record["grpc"], record["http"], record["metrics"])
            log_file = Path(directory) / "logs" / "cluster.log"
            yield AttackedCluster(endpoints, record["pid"], log_file)
        finally:
            down = [*skysail_command, "down", *place]
            subprocess.run(down, check=True, capture_output=True, timeout=_UP_TIMEOUT_S)

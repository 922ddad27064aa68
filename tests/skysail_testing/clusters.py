"""A local cluster, started by the command line as a user starts it."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

import skysail
from skysail_testing.commands import skysail_command, skysail_in_process


@dataclass
class RunningCluster:
    """A running cluster, with the processes that a test may kill."""

    data_dir: Path
    pid: int
    management: str
    grpc: str
    http: str
    metrics: str
    prometheus: str = ""
    scheme: str = "http"
    socket: str = ""

    def client(self, **options: object) -> skysail.Client:
        return skysail.Client(self.management, query_endpoint=self.grpc, **options)  # type: ignore[arg-type]

    def service_pid(self, module: str) -> int:
        """Return the process of a service, such as `skysail_frontend`."""
        for pid, _, command in self._children():
            if module in command:
                return pid
        raise AssertionError(f"{module} does not run")

    def store_pid(self) -> int:
        for pid, name, command in self._children():
            if "server" in name or any("--unixsocket" in word for word in command):
                return pid
        raise AssertionError("the store does not run")

    def _children(self) -> Iterator[tuple[int, str, list[str]]]:
        for child in psutil.Process(self.pid).children():
            # A killed process is a zombie until the supervisor reaps it.
            with suppress(psutil.NoSuchProcess):
                yield child.pid, child.name(), child.cmdline()

    def replica_pid(self, container_id: str) -> int:
        record = self.data_dir / "replicas" / container_id / "container.json"
        return int(json.loads(record.read_text())["pid"])


def start_cluster(data_dir: Path, *flags: str) -> RunningCluster:
    """Start a cluster on free ports; the caller stops it."""
    names = ("http", "grpc", "metrics", "management")
    ports = [part for name in names for part in (f"--{name}-port", "0")]
    started = skysail_command("up", "--detach", "--data-dir", str(data_dir), *ports, *flags)
    assert started.returncode == 0, started.stderr
    return RunningCluster(data_dir, **json.loads((data_dir / "cluster.json").read_text()))


_FAILURES = (
    "unhandled exception",
    "background task failed",
    # The next two texts are of uvicorn and uvloop, for exceptions that our code did not catch.
    "Exception in ASGI application",
    "Fatal error on transport",
)


@contextmanager
def running_cluster(
    data_dir: Path, *flags: str, has_failures: bool = False
) -> Iterator[RunningCluster]:
    """Run a cluster on free ports inside the `with` block.

    The log must contain no internal error, unless `has_failures` says that the test causes one.
    """
    cluster = start_cluster(data_dir, *flags)
    try:
        yield cluster
    finally:
        # A test may have frozen a process, which must resume to end.
        for process in [psutil.Process(cluster.pid)] if psutil.pid_exists(cluster.pid) else []:
            for child in process.children(recursive=True):
                try:
                    os.kill(child.pid, signal.SIGCONT)
                except ProcessLookupError:
                    continue
        stopped = skysail_in_process("down", "--data-dir", str(data_dir))
        log = (data_dir / "logs" / "cluster.log").read_text()
        assert stopped.returncode == 0, f"{stopped.stderr}\n{log}"
        for failure in () if has_failures else _FAILURES:
            assert failure not in log, log

"""Forwarding of ports of this machine to a cluster on Kubernetes, by `kubectl port-forward`."""

import asyncio
import contextlib
import re
import signal
import subprocess
from collections.abc import Callable, Mapping

from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.kubernetes.service_addresses import find_service_addresses
from skysail.clusters.options import ClusterEndpoints
from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes.labels import labels
from skysail_common.process.backoff import BackOff
from skysail_common.process.child_process import StartFailed
from skysail_common.process.lifecycle import BackgroundTasks, stop_event

_FORWARDED = re.compile(r"Forwarding from (?P<here>127\.0\.0\.1:\d+) -> (?P<port>\d+)")
_START_TIMEOUT_S = 30.0
_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0
_PORTS = {
    # The Service of management selects only the leader.
    "service/skysail-management": {"management": 8003},
    # The Service of frontends has no port for metrics, because each frontend has its own.
    "deployment/skysail-frontend": {"grpc": 8001, "http": 8000, "metrics": 8002},
}
"""Ports of each target, by the names of `ClusterEndpoints`."""


class _PortForward:
    """Forwarded ports of one pod, or of its successor when the pod ends."""

    def __init__(self, options: KubernetesOptions, target: str, ports: Mapping[int, int]) -> None:
        self.target = f"{target}{options.suffix}"
        self.bound: dict[int, str] = {}
        """Endpoints on this machine, by the port of the pod."""
        self._ports = dict(ports)
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the command, and return once it listens on the ports of this machine.

        Raises:
            StartFailed: the command failed.
        """
        pairs = [f"{here or ''}:{port}" for port, here in self._ports.items()]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._options.kubectl(), "port-forward", self.target, *pairs,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        except FileNotFoundError:
            raise FailedPrecondition(
                "cannot forward ports: kubectl is not installed; install it"
            ) from None
        try:
            await asyncio.wait_for(self._until_bound(), _START_TIMEOUT_S)
        except asyncio.TimeoutError:
            await self.stop()
            raise StartFailed(
                f"cannot forward to {self.target}: no port is bound after {_START_TIMEOUT_S:g} s"
            ) from None

    async def _until_bound(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        last = ""
        while len(self.bound) < len(self._ports):
            line = (await self._process.stdout.readline()).decode(errors="replace")
            if not line:
                await self._process.wait()
                raise StartFailed(f"cannot forward ports: {last.strip()}")
            last = line
            if found := _FORWARDED.match(line):
                here = found["here"]
                self.bound[int(found["port"])] = here
                # A later run binds the same ports.
                self._ports[int(found["port"])] = int(here.rpartition(":")[2])

    async def keep(self) -> None:
        """Restart the command whenever it ends, as it does with the pod, until cancelled."""
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            assert self._process is not None
            assert self._process.stdout is not None
            while await self._process.stdout.read(65536):
                pass
            await self._process.wait()
            with contextlib.suppress(StartFailed):
                self.bound.clear()
                await self.start()
                back_off.reset()
            await asyncio.sleep(back_off.next_s())

    async def stop(self) -> None:
        """Stop the command."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            await self._process.wait()


async def _scheme(options: KubernetesOptions) -> str:
    """Return the URL scheme of the HTTP port of the frontends."""
    api = options.api()
    try:
        await api.open()
        addresses = await find_service_addresses(api, labels(options.cluster))
    finally:
        await api.close()
    return "https" if "frontend" in addresses and addresses["frontend"].has_tls else "http"


async def forward_ports(
    options: KubernetesOptions,
    ports: Mapping[str, int],
    on_ready: Callable[[ClusterEndpoints], None],
) -> None:
    """Forward ports of 127.0.0.1 to a cluster until SIGTERM or SIGINT.

    Args:
        options: The cluster.
        ports: Ports of this machine by the names of `ClusterEndpoints`; 0 for any free one.
        on_ready: Called with the endpoints, once.

    Raises:
        StartFailed: a port cannot be forwarded.
        FailedPrecondition: kubectl is not installed.
    """
    stop = stop_event()
    tasks = BackgroundTasks()
    forwards = [
        _PortForward(options, target, {port: ports[name] for name, port in names.items()})
        for target, names in _PORTS.items()
    ]
    try:
        for each in forwards:
            await each.start()
            tasks.start(each.keep(), f"forward to {each.target}")
        bound = {port: here for each in forwards for port, here in each.bound.items()}
        names = {name: port for each in _PORTS.values() for name, port in each.items()}
        endpoints = {name: bound[port] for name, port in names.items()}
        on_ready(ClusterEndpoints(**endpoints, scheme=await _scheme(options)))
        await stop.wait()
    finally:
        await tasks.stop()
        for each in forwards:
            await each.stop()

"""Actions of the demo that bypass a container manager: kills, and the search for leftovers."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = tuple(f"{name}=={version(name)}" for name in ("scikit-learn",))
_KUBECTL_TIMEOUT_S = 90
_END_TIMEOUT_S = 5.0


class Machine:
    """Where a cluster of the demo runs."""

    name: str
    packages: tuple[str, ...] = ()
    """Packages that replicas need."""
    recovery_timeout_s = 20.0
    how_killed = "killed with SIGKILL"

    def __init__(self, data_dir: Path) -> None:
        """Starts nothing."""
        self.data_dir = data_dir

    def missing(self) -> str:
        """Return the missing prerequisite; empty if none is missing."""
        return ""

    def flags(self) -> list[str]:
        """Return the flags of `skysail up`."""
        raise NotImplementedError

    def forward_flags(self) -> list[str]:
        """Return the flags of `skysail forward`."""
        return []

    def down_flags(self) -> list[str]:
        """Return the flags with which `skysail down` leaves nothing."""
        return []

    def kill_replica(self, container_id: str) -> None:
        """End a replica without a warning."""
        raise NotImplementedError

    def management(self) -> str:
        """Return the identity of the management that works; empty if none does."""
        raise NotImplementedError

    def kill_management(self) -> None:
        """End management without a warning."""
        raise NotImplementedError

    def watch_end(self) -> None:
        """Note the processes that run, immediately before the cluster stops."""

    def remains(self) -> list[str]:
        """Remove intended leftovers, and return the others."""
        raise NotImplementedError


class Processes(Machine):
    """Replicas are processes of this machine, as is all else."""

    name = "local"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._family: list[psutil.Process] = []

    def flags(self) -> list[str]:
        """Return flags for free ports."""
        ports = [
            word for name in ("http", "grpc", "management") for word in (f"--{name}-port", "0")
        ]
        return ["--detach", *ports, "--container-manager", self.name]

    def pid(self, container_id: str) -> int:
        """Return the process of a replica."""
        record = self.data_dir / "replicas" / container_id / "container.json"
        return int(json.loads(record.read_text())["pid"])

    def pids(self) -> list[int]:
        """Return the processes of all replicas that were started."""
        return [self.pid(path.parent.name) for path in self.data_dir.glob("replicas/*/*.json")]

    def kill_replica(self, container_id: str) -> None:
        """Send SIGKILL."""
        os.kill(self.pid(container_id), signal.SIGKILL)

    def _supervisor(self) -> psutil.Process:
        return psutil.Process(json.loads((self.data_dir / "cluster.json").read_text())["pid"])

    def _management(self) -> list[psutil.Process]:
        found = []
        for child in self._supervisor().children():
            # A killed child stays a zombie until the supervisor has collected it.
            with contextlib.suppress(psutil.NoSuchProcess):
                if "skysail_management" in child.cmdline():
                    found.append(child)
        return found

    def management(self) -> str:
        """Return its process id."""
        return "".join(str(each.pid) for each in self._management())

    def kill_management(self) -> None:
        """Send SIGKILL."""
        for each in self._management():
            each.kill()

    def watch_end(self) -> None:
        """Note the processes of the cluster."""
        own = self._supervisor()
        running = [psutil.Process(pid) for pid in self.pids() if psutil.pid_exists(pid)]
        self._family = [own, *own.children(recursive=True), *running]

    def remains(self) -> list[str]:
        """Return the processes that did not end."""
        _, alive = psutil.wait_procs(self._family, timeout=_END_TIMEOUT_S)
        for process in alive:
            process.kill()
        return [f"process {process.pid}" for process in alive]


class Containers(Processes):
    """Replicas are containers of a Docker engine; their packages are installed into an image."""

    name = "docker"
    packages = _PACKAGES

    def pid(self, container_id: str) -> int:
        """Return the first process of a container."""
        return int(_output("docker", "inspect", "--format", "{{.State.Pid}}", container_id))

    def pids(self) -> list[int]:
        """Return the first process of each container that runs."""
        return [self.pid(each) for each in self._ours("ps")]

    def remains(self) -> list[str]:
        """Remove the images, which the next cluster here would use, and return other leftovers."""
        processes = super().remains()
        # Names, because a base image goes with the last image that is made of it.
        images = self._ours("images", "--format", "{{.Repository}}:{{.Tag}}")
        if images:
            _output("docker", "rmi", "--force", *images)
        networks, volumes = self._ours("network", "ls"), self._ours("volume", "ls")
        left = [*self._ours("ps", "--all"), *self._ours("images"), *networks, *volumes]
        return [*processes, *left]

    def _ours(self, *command: str) -> list[str]:
        label = f"label=ai.skysail.data-dir={self.data_dir.resolve()}"
        return _output("docker", *command, "--quiet", "--filter", label).split()


class Pods(Machine):
    """All of it is pods of the Kubernetes cluster that kubectl finds."""

    name = "kubernetes"
    packages = _PACKAGES
    # A lease that its holder does not release passes to the next management after 15 s.
    recovery_timeout_s = 60.0
    how_killed = "killed with its pod"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.namespace = f"skysail-demo-{secrets.token_hex(3)}"

    def missing(self) -> str:
        """Return why kubectl or its cluster cannot be used; empty if both can."""
        if shutil.which("kubectl") is None:
            return "kubectl is not installed"
        try:
            _output("kubectl", "--request-timeout=10s", "get", "--raw", "/readyz")
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            why = (error.stderr or "it takes too long").strip().splitlines()[-1]
            return f"no Kubernetes cluster answers that KUBECONFIG names: {why}"
        return ""

    def flags(self) -> list[str]:
        """Return flags for a private namespace; frontends get ports of the node."""
        return ["--container-manager", self.name, *self.forward_flags()]

    def forward_flags(self) -> list[str]:
        """Return the flag of the namespace."""
        return ["--namespace", self.namespace]

    def down_flags(self) -> list[str]:
        """Return flags that skip the question and delete the claims."""
        return ["--yes", "--delete-data"]

    def _kubectl(self, *arguments: str) -> str:
        return _output("kubectl", "--namespace", self.namespace, *arguments)

    def kill_replica(self, container_id: str) -> None:
        """Kill every process of the pod but the one that holds its namespaces."""
        command = ["exec", container_id, "--container", "model-server", "--", "sh", "-c"]
        self._kubectl(*command, "kill -9 -1")

    def management(self) -> str:
        """Return the name of the pod that leads."""
        return self._kubectl("get", "pods", "--selector", "skysail.ai/leader", "--output", "name")

    def kill_management(self) -> None:
        """Delete its pod without a grace period."""
        self._kubectl("delete", self.management(), "--force", "--grace-period=0")

    def remains(self) -> list[str]:
        """Remove the directory of the volumes on this machine, and return objects named for the namespace."""
        shutil.rmtree(Path("/var/lib/skysail") / self.namespace, ignore_errors=True)
        kinds = "namespaces,persistentvolumes,clusterroles,clusterrolebindings"
        found = _output("kubectl", "get", kinds, "--output", "name").split()
        return [each for each in found if self.namespace in each]


def _output(*command: str) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_KUBECTL_TIMEOUT_S
    )
    return done.stdout.strip()


MACHINES: dict[str, type[Machine]] = {each.name: each for each in (Processes, Containers, Pods)}

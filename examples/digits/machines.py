"""What the demo does behind the back of a container manager: kills, looks for what is left."""

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
    """What replicas need installed."""
    recovery_timeout_s = 20.0
    how_killed = "killed with SIGKILL"

    def __init__(self, data_dir: Path) -> None:
        """Does nothing yet."""
        self.data_dir = data_dir

    def missing(self) -> str:
        """Return what is not there but needed; empty if nothing."""
        return ""

    def flags(self) -> list[str]:
        """Return what `skysail up` is told."""
        raise NotImplementedError

    def forward_flags(self) -> list[str]:
        """Return what `skysail forward` is told."""
        return []

    def down_flags(self) -> list[str]:
        """Return the flags with which `skysail down` leaves nothing."""
        return []

    def kill_replica(self, container_id: str) -> None:
        """End a replica without a warning."""
        raise NotImplementedError

    def management(self) -> str:
        """Return what tells the management that works from an earlier one; empty if none does."""
        raise NotImplementedError

    def kill_management(self) -> None:
        """End management without a warning."""
        raise NotImplementedError

    def watch_end(self) -> None:
        """Note what runs, right before the cluster is told to stop."""

    def remains(self) -> list[str]:
        """Remove what was left on purpose, and return what was left beside it."""
        raise NotImplementedError


class Processes(Machine):
    """Replicas are processes of this machine, as is all else."""

    name = "local"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._family: list[psutil.Process] = []

    def flags(self) -> list[str]:
        """Any ports that are free."""
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
        """As the kernel would."""
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
        """Its process id."""
        return "".join(str(each.pid) for each in self._management())

    def kill_management(self) -> None:
        """As the kernel would."""
        for each in self._management():
            each.kill()

    def watch_end(self) -> None:
        """Note the processes of the cluster."""
        own = self._supervisor()
        running = [psutil.Process(pid) for pid in self.pids() if psutil.pid_exists(pid)]
        self._family = [own, *own.children(recursive=True), *running]

    def remains(self) -> list[str]:
        """Processes that did not end."""
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
        """Remove the images, which stay for the next cluster here, and return what else is left."""
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
    # A lease that nobody lets go of is the next one's after 15 s.
    recovery_timeout_s = 60.0
    how_killed = "killed with its pod"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.namespace = f"skysail-demo-{secrets.token_hex(3)}"

    def missing(self) -> str:
        """Kubernetes, where it does not answer."""
        if shutil.which("kubectl") is None:
            return "kubectl is not installed"
        try:
            _output("kubectl", "--request-timeout=10s", "get", "--raw", "/readyz")
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            why = (error.stderr or "it takes too long").strip().splitlines()[-1]
            return f"no Kubernetes cluster answers that KUBECONFIG names: {why}"
        return ""

    def flags(self) -> list[str]:
        """A namespace of its own; frontends get ports of the node."""
        return ["--container-manager", self.name, *self.forward_flags()]

    def forward_flags(self) -> list[str]:
        """The namespace."""
        return ["--namespace", self.namespace]

    def down_flags(self) -> list[str]:
        """No question, and no claims left."""
        return ["--yes", "--delete-data"]

    def _kubectl(self, *arguments: str) -> str:
        return _output("kubectl", "--namespace", self.namespace, *arguments)

    def kill_replica(self, container_id: str) -> None:
        """From inside: every process but the one that holds the pod's namespaces."""
        command = ["exec", container_id, "--container", "model-server", "--", "sh", "-c"]
        self._kubectl(*command, "kill -9 -1")

    def management(self) -> str:
        """Name of the pod that leads."""
        return self._kubectl("get", "pods", "--selector", "skysail.ai/leader", "--output", "name")

    def kill_management(self) -> None:
        """Its pod is deleted at once."""
        self._kubectl("delete", self.management(), "--force", "--grace-period=0")

    def remains(self) -> list[str]:
        """Remove the volumes' directory, if it is on this machine; return all with our namespace's name."""
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

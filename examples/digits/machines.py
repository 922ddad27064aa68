"""What the demo does behind the back of a container manager: finds processes, looks for remains."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path


class Processes:
    """Replicas are processes of this machine."""

    name = "local"
    packages: tuple[str, ...] = ()

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def pid(self, container_id: str) -> int:
        """Return the process of a replica."""
        record = self.data_dir / "replicas" / container_id / "container.json"
        return int(json.loads(record.read_text())["pid"])

    def pids(self) -> list[int]:
        """Return the processes of all replicas that were started."""
        return [self.pid(path.parent.name) for path in self.data_dir.glob("replicas/*/*.json")]

    def remains(self) -> list[str]:
        """Remove what was left on purpose, and return what was not."""
        return []


class Containers(Processes):
    """Replicas are containers of a Docker engine; their packages are installed into an image."""

    name = "docker"
    packages = tuple(f"{name}=={version(name)}" for name in ("scikit-learn",))

    def pid(self, container_id: str) -> int:
        """Return the first process of a container."""
        return int(_docker("inspect", "--format", "{{.State.Pid}}", container_id))

    def pids(self) -> list[int]:
        """Return the first process of each container that runs."""
        return [self.pid(each) for each in self._ours("ps")]

    def remains(self) -> list[str]:
        """Remove the images, which stay for the next cluster here, and return what else is left."""
        # By their names: one that others are made of goes with the last of these.
        images = self._ours("images", "--format", "{{.Repository}}:{{.Tag}}")
        if images:
            _docker("rmi", "--force", *images)
        networks, volumes = self._ours("network", "ls"), self._ours("volume", "ls")
        return [*self._ours("ps", "--all"), *self._ours("images"), *networks, *volumes]

    def _ours(self, *command: str) -> list[str]:
        label = f"label=ai.skysail.data-dir={self.data_dir.resolve()}"
        return _docker(*command, "--quiet", "--filter", label).split()


def _docker(*arguments: str) -> str:
    command = ["docker", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


MACHINES = {each.name: each for each in (Processes, Containers)}

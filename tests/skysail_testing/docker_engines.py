"""Separate Docker engines and registries for tests that stop, fill or lock them."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skysail_testing.container_managers import IMAGE, run_docker, why_no_docker
from skysail_testing.processes import eventually

_VOLUME_MIB = 1024
# A named bridge, because `none` would remove the bridge of this machine's engine.
_BRIDGE = "skysail-test"


class OwnEngine:
    """A Docker engine without a network, whose data is on a small volume."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.host = f"unix://{directory}/engine"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd", "--data-root", str(self.data),
                    "--exec-root", str(self.directory / "exec"),
                    "--pidfile", str(self.directory / "pid"), "--host", self.host,
                    "--bridge", _BRIDGE, "--iptables=false",
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        eventually(self._answers, what="the engine answers")

    def _answers(self) -> bool:
        return self.command("version", check=False).returncode == 0

    def command(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["docker", "--host", self.host, *arguments],
            check=check, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def load(self, image: str) -> None:
        """Copy an image from the engine of this machine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            command = ["docker", "--host", self.host, "load", "--quiet"]
            subprocess.run(command, stdin=saved.stdout, check=True, stdout=subprocess.DEVNULL)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)


@contextmanager
def own_engine() -> Iterator[OwnEngine]:
    """Run a separate engine with the image of the model server inside the block."""
    directory = Path(tempfile.mkdtemp(prefix="e"))
    engine = OwnEngine(directory)
    volume = directory / "volume"
    with volume.open("wb") as file:
        file.truncate(_VOLUME_MIB * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(volume)], check=True)
    subprocess.run(["ip", "link", "add", _BRIDGE, "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", "198.18.37.1/24", "dev", _BRIDGE], check=True)
    engine.data.mkdir()
    subprocess.run(["mount", "-o", "loop", str(volume), str(engine.data)], check=True)
    try:
        engine.start()
        engine.load(IMAGE)
        yield engine
    finally:
        engine.stop()
        subprocess.run(["ip", "link", "delete", _BRIDGE], check=True)
        subprocess.run(["umount", "--lazy", str(engine.data)], check=True)
        shutil.rmtree(directory, ignore_errors=True)


def why_no_own_engine() -> str:
    """Return the reason to skip tests with a second engine; empty if it can run."""
    if os.getuid() != 0:
        return "a second docker engine needs root"
    if not shutil.which("dockerd"):
        return "no docker engine (dockerd) on this machine"
    # The second engine copies the image from the first one.
    return why_no_docker()


@contextmanager
def registry(directory: Path, user: str, password: str) -> Iterator[str]:
    """Run a registry with a password inside the block; yield its address."""
    hashed = subprocess.run(
        ["htpasswd", "-nbB", user, password], check=True, capture_output=True, text=True
    ).stdout
    (directory / "users").write_text(hashed)
    settings = directory / "registry.yml"
    settings.write_text(
        f"version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/images}}}}\n"
        f"http: {{addr: 'localhost:0'}}\n"
        f"auth: {{htpasswd: {{realm: tests, path: {directory}/users}}}}\n"
    )
    log = directory / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(settings)], stdout=output, stderr=output
        )
    try:
        yield str(eventually(lambda: _listens_on(log), what="the registry listens"))
    finally:
        process.terminate()
        process.wait(10)


def _listens_on(log: Path) -> str:
    found = re.search(r"listening on ([0-9.:]+)", log.read_text())
    return found[1] if found else ""


async def in_container(container_id: str, *command: str) -> str:
    """Run a command in a container and return its output."""
    return await asyncio.to_thread(run_docker, "exec", container_id, *command)

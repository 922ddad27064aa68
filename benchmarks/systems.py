"""The measured systems: raw echoes, Skysail, and the installed peers."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from typing_extensions import Self

import skysail
from benchmarks import echo, echo_cpp, load_tool, models
from benchmarks.load_tool import Load, LoadFailed, Parts, ServerDied, tree
from benchmarks.peers import PeerFailed, mlserver, triton
from skysail_frontend.ingress.http import TIMEOUT_HEADER

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
HTTP_CONNECTIONS = 512
"""Most connections of an HTTP client; further requests wait in the client."""


@dataclass(frozen=True)
class System:
    """A running system that answers requests."""

    name: str
    address: str
    parts: Parts
    """Returns the processes of the system."""
    unary: str = INFER
    """Path of the unary method; empty if there is none."""
    stream: str = ""
    """Path of the bidirectional method; empty if there is none."""
    http_address: str = ""
    """Address of the REST form of the protocol; empty if it is not served."""
    models: tuple[str, ...] = models.NAMES
    transport: str = "other"
    """Transport of a Skysail cluster."""

    def load(self, door: str, model: str, mode: str, seconds: float, **options: Any) -> Load:
        """Return a load of queries to a model.

        Args:
            door: `grpc` or `http`.
            model: Name of the model.
            mode: `closed`, `open` or `stream`.
            seconds: Duration.
            options: Further fields of the load.
        """
        if door == "http":
            path, requests = f"/v2/models/{model}/infer", models.json_requests(model)
            header = TIMEOUT_HEADER if self.name.startswith("skysail") else ""
            options = {
                "connections": HTTP_CONNECTIONS,
                **options,
                "protocol": "http",
                "timeout_header": header,
            }
            return Load(mode, self.http_address, path, requests, seconds, **options)
        path = self.stream if mode == "stream" else self.unary
        requests = models.infer_requests(model)
        return Load(mode, self.address, path, requests, seconds, **options)


class Running:
    """A system that can be restarted."""

    def __init__(self, start: Callable[[], AbstractContextManager[System]]) -> None:
        """Does not start the system before the context begins.

        Args:
            start: Returns a context in which the system runs; called for each start.
        """
        self._start = start
        self._stack = ExitStack()
        self.system: System

    def __enter__(self) -> Self:
        self.system = self._stack.enter_context(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def restart(self) -> None:
        """Stop the rest of the system and start it again; its address may change."""
        self._stack.close()
        self.system = self._stack.enter_context(self._start())

    def measure(
        self, door: str, model: str, mode: str, seconds: float, **options: Any
    ) -> dict[str, Any]:
        """Return the report of `load_tool.run`; restart the system if it dies.

        Raises:
            ServerDied: a process of the system ended during the run.
            LoadFailed: the load tool gave no result.
        """
        load = self.system.load(door, model, mode, seconds, **options)
        try:
            return load_tool.run(load, self.system.parts)
        except ServerDied as death:
            try:
                self.restart()
            except (PeerFailed, subprocess.SubprocessError) as error:
                raise LoadFailed(f"{death}; it does not start again: {error}") from error
            raise


@contextmanager
def echo_system(kind: str) -> Iterator[System]:
    """Run an echo server.

    Args:
        kind: `aio`, `native` or `cpp`.

    Raises:
        NoCompiler: `cpp` does not compile on this machine.
    """
    command = [sys.executable, "-m", f"benchmarks.echo_{kind}"]
    process = subprocess.Popen(
        [str(echo_cpp.build())] if kind == "cpp" else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = f"127.0.0.1:{int(process.stdout.readline())}"

        def parts() -> dict[str, list[int]]:
            return {"server": [process.pid]}

        yield System(f"echo-{kind}", address, parts, echo.UNARY, echo.STREAM, models=("noop",))
    finally:
        process.kill()
        process.wait()


@contextmanager
def skysail_system(transport: str = "native") -> Iterator[System]:
    """Run a cluster on free ports with every model deployed.

    Args:
        transport: Transport of the query path: `native`, or `grpc` for grpc.aio.
    """
    with tempfile.TemporaryDirectory(prefix="skysail-bench-") as directory:
        data_dir = Path(directory)
        ports = [
            part
            for name in ("http", "grpc", "metrics", "management")
            for part in (f"--{name}-port", "0")
        ]
        command = [sys.executable, "-m", "skysail"]
        place = ["--data-dir", directory]
        up = [*command, "up", "--detach", *place, *ports]
        inherited = os.environ  # noqa: TID251 - a setting of what is started
        environment = {**inherited, "SKYSAIL_TRANSPORT": transport}
        subprocess.run(up, check=True, stdout=subprocess.DEVNULL, timeout=120, env=environment)
        try:
            record = json.loads((data_dir / "cluster.json").read_text())
            endpoints = {"query_endpoint": record["grpc"]}
            with skysail.Client(record["management"], **endpoints) as client:
                for name, function in models.functions().items():
                    client.deploy(
                        function, name=name, version="1", example=models.rows()[:1],
                    )  # fmt: skip
            pid = record["pid"]
            yield System(
                "skysail" if transport == "native" else "skysail-aio",
                record["grpc"],
                lambda: _parts_of(pid),
                stream=STREAM_INFER,
                http_address=record["http"],
                transport=transport,
            )
        finally:
            subprocess.run([*command, "down", *place], check=True, capture_output=True, timeout=120)


def _parts_of(pid: int) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {}
    for each in tree(pid):
        try:
            module = " ".join(psutil.Process(each).cmdline()[1:3]).removeprefix("-m skysail_")
        except psutil.NoSuchProcess:
            continue
        part = module if module in ("frontend", "model_server") else "others"
        parts.setdefault(part.replace("_", " "), []).append(each)
    return parts


@contextmanager
def peer_system(name: str) -> Iterator[System]:
    """Install a peer if it is missing, and run it."""
    module = {"triton": triton, "mlserver": mlserver}[name]
    module.install()
    with module.running() as peer:

        def parts() -> dict[str, list[int]]:
            return {"server": peer.pids()}

        yield System(name, peer.grpc_endpoint, parts, http_address=peer.http_endpoint)

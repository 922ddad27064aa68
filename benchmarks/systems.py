"""Starts what is measured: the raw echo, Skysail itself, and the peers that are installed."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

import skysail
from benchmarks import echo, echo_cpp, models
from benchmarks.load_tool import Parts, tree
from benchmarks.peers import mlserver, triton

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass(frozen=True)
class System:
    """Something that answers requests."""

    name: str
    address: str
    parts: Parts
    """Its processes."""
    unary: str = INFER
    """Path of the unary method; nothing where there is none."""
    stream: str = ""
    """Path of the bidirectional method; nothing where there is none."""
    requests: Callable[[str], list[bytes]] = models.infer_requests
    """Makes the requests to a model."""
    models: tuple[str, ...] = models.NAMES
    transport: str = "other"
    """What carries its calls, where that is ours to choose."""


@contextmanager
def echo_systems(kind: str) -> Iterator[list[System]]:
    """Run an echo and yield its unary and its stream side.

    Args:
        kind: `aio`, `native` or `cpp`.

    Raises:
        NoCompiler: `cpp` does not compile here.
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

        yield [
            System(f"echo-{kind}", address, parts, echo.UNARY, "", models=("noop",)),
            System(f"echo-{kind}-stream", address, parts, "", echo.STREAM, models=("noop",)),
        ]
    finally:
        process.kill()
        process.wait()


@contextmanager
def skysail_system(transport: str = "native") -> Iterator[System]:
    """Run a cluster on free ports with every model deployed.

    Args:
        transport: What carries the query path: `native`, or `grpc` for grpc.aio.
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
    """Install a peer, if need be, and run it."""
    module = {"triton": triton, "mlserver": mlserver}[name]
    module.install()
    with module.running() as peer:
        yield System(name, peer.grpc_endpoint, lambda: {"server": peer.pids()})

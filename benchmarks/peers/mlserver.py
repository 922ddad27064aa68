"""Seldon's MLServer, with a runtime of our own for the three models."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers import MAX_BATCH_SIZE, MODELS, Peer, PeerUnavailable
from benchmarks.peers.environments import HERE, Environment
from benchmarks.peers.servers import HOST, free_ports, serving

NAME = "mlserver"

# Its workers ask for an event loop that uvloop no longer makes by itself since 0.22.
_ENVIRONMENT = Environment(NAME, ("mlserver==1.7.1", "scikit-learn==1.9.1", "uvloop==0.21.0"))
_MAX_BATCH_TIME_S = 0.005
# Each model as it is fastest on two cores with 16 callers; the default, one worker for all, is that
# for none. The server's own process is busy with the protocol, and to hand queries on costs noop and
# lr a fifth of their rate; rf has work to divide, and gains a quarter by a second worker.
_PARALLEL_WORKERS = 2
_PARALLEL_MODELS = ("rf",)


def install() -> None:
    """Install MLServer unless it is there, and print which.

    Raises:
        PeerUnavailable: it cannot be installed on this machine.
    """
    _ENVIRONMENT.install()


@contextmanager
def running() -> Iterator[Peer]:
    """Run MLServer until the context ends; yield it once its models are ready.

    Raises:
        PeerUnavailable: it is not installed.
        PeerFailed: it did not become ready.
    """
    program = _ENVIRONMENT.programs / "mlserver"
    if not program.exists():
        raise PeerUnavailable("MLServer is not installed")
    grpc_port, http_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="skysail-mlserver-") as name:
        directory = Path(name)
        settings = {
            # Its default is to log every request.
            "debug": False,
            "host": HOST,
            "grpc_port": grpc_port,
            "http_port": http_port,
            # Counting would cost it a fifth of its rate; Triton runs without, too.
            "metrics_endpoint": None,
            "parallel_workers": _PARALLEL_WORKERS,
        }
        (directory / "settings.json").write_text(json.dumps(settings))
        for model in MODELS:
            _write_model(directory / model, model)
        shutil.copy(HERE / "mlserver_runtime.py", directory / "digits_runtime.py")
        with serving(
            NAME,
            [str(program), "start", str(directory)],
            _ENVIRONMENT.programs,
            directory,
            grpc_port,
            http_port,
            {"PYTHONPATH": str(directory)},
        ) as peer:
            yield peer


def _write_model(directory: Path, name: str) -> None:
    directory.mkdir()
    settings: dict[str, Any] = {
        "name": name,
        "implementation": "digits_runtime.Digits",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": _MAX_BATCH_TIME_S,
        "parameters": {"uri": str(directory)},
    }
    if name not in _PARALLEL_MODELS:
        # Called deprecated, and heeded.
        settings["parallel_workers"] = 0
    (directory / "model-settings.json").write_text(json.dumps(settings))
    trained = _ENVIRONMENT.models / f"{name}.joblib"
    if trained.exists():
        shutil.copy(trained, directory / "model.joblib")

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
# One of its default for all models serves none of them best. On two cores with 16 callers: a process
# beside the server costs noop and lr a fifth of their rate (two: a third), for the server's own is
# busy with the protocol; rf, with work to divide, gains a third from two.
_PARALLEL_WORKERS = 2
METRICS_OFF = False
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
    grpc_port, http_port, metrics_port = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="skysail-mlserver-") as name:
        directory = Path(name)
        settings = {
            # Its default is to log every request.
            "debug": False,
            "host": HOST,
            "grpc_port": grpc_port,
            "http_port": http_port,
            "metrics_port": metrics_port,
            **({"metrics_endpoint": None} if METRICS_OFF else {}),
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
        settings["parallel_workers"] = 0
    (directory / "model-settings.json").write_text(json.dumps(settings))
    trained = _ENVIRONMENT.models / f"{name}.joblib"
    if trained.exists():
        shutil.copy(trained, directory / "model.joblib")

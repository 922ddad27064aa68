"""MLServer by Seldon, with a custom runtime for the three models."""

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

# The workers of MLServer need an event loop that uvloop 0.22 and later do not create.
_ENVIRONMENT = Environment(NAME, ("mlserver==1.7.1", "scikit-learn==1.9.1", "uvloop==0.21.0"))
_MAX_BATCH_TIME_S = 0.005
# The settings are the fastest for each model on two cores with 16 callers. The default, one worker
# for all models, is the fastest for none. Workers cost noop and lr a fifth of their rate, because
# the server process handles the protocol and forwards queries. A second worker raises the rate of
# rf by a quarter.
_PARALLEL_WORKERS = 2
_PARALLEL_MODELS = ("rf",)


def install() -> None:
    """Install MLServer if it is missing, and print its directory.

    Raises:
        PeerUnavailable: MLServer cannot be installed on this machine.
    """
    _ENVIRONMENT.install()


@contextmanager
def running() -> Iterator[Peer]:
    """Run MLServer until the context ends; yield it once its models are ready.

    Raises:
        PeerUnavailable: MLServer is not installed.
        PeerFailed: MLServer did not become ready.
    """
    program = _ENVIRONMENT.programs / "mlserver"
    if not program.exists():
        raise PeerUnavailable("MLServer is not installed")
    grpc_port, http_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="skysail-mlserver-") as name:
        directory = Path(name)
        settings = {
            # MLServer logs every request by default.
            "debug": False,
            "host": HOST,
            "grpc_port": grpc_port,
            "http_port": http_port,
            # Metrics cost a fifth of the rate; they are also disabled in Triton.
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
        # The field is deprecated but has an effect.
        settings["parallel_workers"] = 0
    (directory / "model-settings.json").write_text(json.dumps(settings))
    trained = _ENVIRONMENT.models / f"{name}.joblib"
    if trained.exists():
        shutil.copy(trained, directory / "model.joblib")

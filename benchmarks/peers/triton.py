"""Triton Inference Server 2.51 by NVIDIA, with its Python backend.

The wheel of PyTriton contains the server and the backend; the proxy of PyTriton is not used.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers import MAX_BATCH_SIZE, MODELS, Peer, PeerUnavailable
from benchmarks.peers.environments import HERE, Environment, run
from benchmarks.peers.servers import HOST, free_ports, serving

NAME = "triton"

# The environment uses the interpreter of the system, because the backend embeds its library.
_ENVIRONMENT = Environment(
    NAME,
    ("nvidia-pytriton==0.7.0", "numpy==1.26.4", "scikit-learn==1.9.1"),
    interpreter="/usr/bin/python3",
)
_STUB = "triton_python_backend_stub"
_CHECK_TIMEOUT_S = 60.0
_SHARED_MEMORY = Path("/dev/shm")

_CONFIG = """\
backend: "python"
max_batch_size: {max_batch_size}
dynamic_batching {{ }}
instance_group [ {{ count: 2 kind: KIND_CPU }} ]
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 64 ] }} ]
output [ {{ name: "output" data_type: {output} }} ]
"""


def install() -> None:
    """Install Triton if it is missing, and print its directory.

    Raises:
        PeerUnavailable: Triton cannot run on this machine.
    """
    version = _system_python()
    _ENVIRONMENT.install()
    server = _server()
    stub = server / "python_backend_stubs" / version / _STUB
    if not stub.exists():
        raise PeerUnavailable(f"the wheel of Triton has no backend for Python {version}")
    # The server looks for the stub in this directory, at the same depth below the libraries of the
    # wheel.
    shutil.copy2(stub, server / "backends" / "python" / _STUB)


def _system_python() -> str:
    """Return the version of the system's Python, like 3.11, whose library must be installed."""
    code = (
        "import ctypes, ensurepip, sys; v = '%d.%d' % sys.version_info[:2]; "
        "ctypes.CDLL(f'libpython{v}.so.1.0'); print(v)"
    )
    try:
        return run([_ENVIRONMENT.interpreter, "-I", "-c", code], _CHECK_TIMEOUT_S)
    except PeerUnavailable as error:
        raise PeerUnavailable(
            f"Triton needs Debian's python3, python3-venv and the library of that Python: {error}"
        ) from error


def _server() -> Path:
    """Return the directory of the server in the wheel."""
    found = list(
        _ENVIRONMENT.directory.glob("venv/lib/python3*/site-packages/pytriton/tritonserver")
    )
    if not found:
        raise PeerUnavailable("Triton is not installed")
    return found[0]


@contextmanager
def running() -> Iterator[Peer]:
    """Run Triton until the context ends; yield it once its models are ready.

    Raises:
        PeerUnavailable: Triton is not installed.
        PeerFailed: Triton did not become ready.
    """
    server = _server()
    grpc_port, http_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="skysail-triton-") as name:
        directory = Path(name)
        repository = directory / "models"
        for model in MODELS:
            _write_model(repository, model)
        # The prefix is unique, so that the shared memory of a killed server can be removed.
        prefix = f"{directory.name}-"
        command = [
            str(server / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={server / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            f"--grpc-address={HOST}",
            f"--grpc-port={grpc_port}",
            f"--http-address={HOST}",
            f"--http-port={http_port}",
            "--allow-metrics=false",
            "--exit-timeout-secs=5",
        ]
        try:
            with serving(
                NAME, command, _ENVIRONMENT.programs, directory, grpc_port, http_port
            ) as peer:
                yield peer
        finally:
            for region in _SHARED_MEMORY.glob(f"{prefix}*"):
                region.unlink()


def _write_model(repository: Path, name: str) -> None:
    directory = repository / name
    version = directory / "1"
    version.mkdir(parents=True)
    # Labels are [batch] on the wire. `dims` must not be empty, but Triton does not check answers
    # against it.
    output = "TYPE_FP32 dims: [ 64 ]" if name == "noop" else "TYPE_INT64 dims: [ 1 ]"
    config = _CONFIG.format(max_batch_size=MAX_BATCH_SIZE, output=output)
    (directory / "config.pbtxt").write_text(config)
    shutil.copy(HERE / "triton_model.py", version / "model.py")
    trained = _ENVIRONMENT.models / f"{name}.joblib"
    if trained.exists():
        shutil.copy(trained, version / "model.joblib")

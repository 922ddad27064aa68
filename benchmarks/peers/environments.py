"""Virtual environments of the peers in `.cache/peers`, each with the models trained in it."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import PeerUnavailable

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
_TRAINING = HERE / "models.py"
_INSTALL_TIMEOUT_S = 1800.0
_OTHER_TIMEOUT_S = 300.0
_ERROR_CHARACTERS = 800


@dataclass(frozen=True)
class Environment:
    """The virtual environment of one peer."""

    name: str
    requirements: tuple[str, ...]
    interpreter: str = sys.executable

    @property
    def directory(self) -> Path:
        """Directory of the peer."""
        return ROOT / ".cache" / "peers" / self.name

    @property
    def programs(self) -> Path:
        """Directory of the programs of the environment."""
        return self.directory / "venv" / "bin"

    @property
    def models(self) -> Path:
        """Directory of the trained models, each as `name.joblib`."""
        return self.directory / "models"

    def install(self) -> None:
        """Create the environment if it is missing or outdated, and print its directory.

        Raises:
            PeerUnavailable: a requirement is missing.
        """
        stamp = self.directory / "installed"
        described = self._described()
        place = self.directory.relative_to(ROOT)
        if stamp.exists() and stamp.read_text() == described:
            print(f"{self.name}: installed in {place}")
            return
        print(f"{self.name}: installing {', '.join(self.requirements)} in {place}", flush=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        venv = self.directory / "venv"
        run([self.interpreter, "-m", "venv", str(venv)], _OTHER_TIMEOUT_S)
        python = str(self.programs / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, *self.requirements], _INSTALL_TIMEOUT_S)
        self.models.mkdir()
        # Option -I keeps this directory off the path: a module in it has the name of a package.
        run([python, "-I", str(_TRAINING), str(self.models)], _OTHER_TIMEOUT_S)
        stamp.write_text(described)

    def _described(self) -> str:
        version = run([self.interpreter, "--version"], _OTHER_TIMEOUT_S)
        training = hashlib.sha256(_TRAINING.read_bytes()).hexdigest()
        return "\n".join((self.interpreter, version, *self.requirements, training))


def run(command: Sequence[str], timeout_s: float) -> str:
    """Run a command and return its standard output.

    Raises:
        PeerUnavailable: the command is missing, failed or timed out.
    """
    words = " ".join(command[:4])
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(f"`{words}` does not run: {error}") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-_ERROR_CHARACTERS:]
        raise PeerUnavailable(f"`{words}` failed: {said}")
    return done.stdout.strip()

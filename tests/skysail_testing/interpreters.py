"""Unit tests and imports on the other interpreters, beside all other tests and behind them.

They take minutes, most of which the rest of a run leaves idle: one process does all of it at a low
priority, and the tests that are named for it only wait for what it found.

    python -m skysail_testing.interpreters <directory> <priority>
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
VERSIONS = ["3.10", "3.11", "3.12", "3.13"]
PACKAGES = [
    "skysail",
    "skysail.cli.main",
    "skysail_common.store",
    "skysail_frontend.app",
    "skysail_management.app",
    "skysail_model_server.app",
]
BESIDE_OTHERS = 10
"""As `nice` counts: a tenth of a processor that others want, and all that nobody wants."""


class OtherInterpreters:
    """The process at work on them."""

    def __init__(self, directory: Path) -> None:
        """Starts nothing yet; the process will write to a directory."""
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, priority: int = 0) -> None:
        """Start the process, at a priority as `nice` counts it."""
        module = [sys.executable, "-m", "skysail_testing.interpreters"]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*module, str(self._directory), str(priority)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT / "tests",
                start_new_session=True,
            )

    def result(self, version: str) -> str:
        """Return what went wrong with a version, once it is known; nothing if all is well."""
        if self._process is None:
            self.start()
        assert self._process is not None
        found = self._directory / version
        while not found.exists():
            if self._process.poll() is not None and not found.exists():
                log = (self._directory / "log").read_text()
                return f"{log}it ended with status {self._process.returncode} and no result"
            time.sleep(0.1)
        return found.read_text()

    def stop(self) -> None:
        """End it, wherever it is."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def find_interpreter(version: str) -> str | None:
    """Return the program of a version that this machine has."""
    candidates = [f"python{version}"]
    candidates += map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in candidates:
        try:
            done = subprocess.run(
                [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            continue
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    return None


def environment_of(version: str, interpreter: str) -> Path:
    """Return the Python of an environment with what unit tests need; kept between runs."""
    key = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()[:12]
    directory = ROOT / ".cache" / f"python{version}-{key}"
    python = directory / "bin" / "python"
    if not (directory / "complete").exists():
        # Without a pip, which ours makes unnecessary, and without compiling what nobody imports.
        venv = [interpreter, "-m", "venv", "--clear", "--without-pip", str(directory)]
        subprocess.run(venv, check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        options = ["--disable-pip-version-check", "--no-compile"]
        packages = ["--editable", f"{ROOT}[all]", "--group", "unit"]
        subprocess.run([*pip, *options, *packages], check=True, cwd=ROOT)
        (directory / "complete").touch()
    return python


def problem_of(version: str, interpreter: str) -> str:
    """Import and test everything on an interpreter and return what went wrong."""
    try:
        python = environment_of(version, interpreter)
        imports = "; ".join(f"import {package}" for package in PACKAGES)
        subprocess.run([str(python), "-W", "error", "-c", imports], check=True, cwd="/")
    except subprocess.CalledProcessError as error:
        return str(error)
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout[-5000:] + done.stderr[-2000:]


def main(directory: Path, priority: int) -> None:
    """Write for each other interpreter that this machine has what went wrong with it."""
    os.nice(priority)
    for version in VERSIONS:
        if version == OWN:
            continue
        interpreter = find_interpreter(version)
        if interpreter is not None:
            temporary = directory / f"{version}.new"
            temporary.write_text(problem_of(version, interpreter))
            temporary.rename(directory / version)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""Unit tests and imports on every supported interpreter that this machine has."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

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


def find_interpreter(version: str) -> str | None:
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
    """Return an environment with Skysail and what unit tests need; kept between runs."""
    key = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()[:12]
    directory = ROOT / ".cache" / f"python{version}-{key}"
    python = directory / "bin" / "python"
    if not (directory / "complete").exists():
        # Installing is not what the time limit of a test is about; pip has its own.
        subprocess.run([interpreter, "-m", "venv", "--clear", str(directory)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True)
        subprocess.run(
            [*pip, "--editable", f"{ROOT}[all]", "--group", "test"], check=True, cwd=ROOT
        )
        (directory / "complete").touch()
    return python


def run_unit_tests(version: str, interpreter: str) -> subprocess.CompletedProcess[str]:
    python = environment_of(version, interpreter)
    imports = "; ".join(f"import {package}" for package in PACKAGES)
    subprocess.run([str(python), "-W", "error", "-c", imports], check=True, cwd="/")
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(python.parents[1] / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, "Future[subprocess.CompletedProcess[str]]"]]:
    """All interpreters at work, two at a time: much of it is waiting for downloads."""
    with ThreadPoolExecutor(2) as pool:
        found = {version: find_interpreter(version) for version in VERSIONS if version != OWN}
        yield {
            version: pool.submit(run_unit_tests, version, interpreter)
            for version, interpreter in found.items()
            if interpreter is not None
        }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", VERSIONS)
def test_unit_tests_and_imports(version: str, runs):
    if version == OWN:
        pytest.skip("the interpreter that runs the whole suite")
    if version not in runs:
        pytest.skip(f"python{version} is not installed")
    done = runs[version].result()
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]

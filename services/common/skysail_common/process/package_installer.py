"""`python -m skysail_common.process.package_installer [--python PYTHON] REQUIREMENTS`.

Installs a requirements file into the environment of PYTHON, by default its own: with uv if it is on
the PATH or importable, else with pip. Both obey the configuration of pip, because the options of pip
become options of uv. pip also installs what needs an option that uv lacks. The output, without
credentials, is one stream.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from skysail_common.process.pip_configuration import (
    UvConfiguration,
    has_only_uv_lines,
    pip_options,
    uv_configuration,
)
from skysail_common.process.virtual_environments import INSTALLER, lent_metadata
from skysail_common.redaction import without_credentials
from skysail_common.states import ExitCode

_PIP = (
    "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
    "--requirement",
)  # fmt: skip
_UV = (
    "pip", "install", "--no-progress", "--color", "never",
    # pip too takes the best version of all indexes.
    "--index-strategy", "unsafe-best-match",
)  # fmt: skip
# A longer line is printed in parts.
_LINE_BYTES = 64 * 1024


def main(arguments: Sequence[str]) -> int:
    """Install, and return the exit status."""
    match list(arguments):
        case ["--python", python, path]:
            return _install(Path(python), Path(path))
        case [path] if not path.startswith("-"):
            return _install(Path(sys.executable), Path(path))
    sys.stderr.write(f"usage: python -m {INSTALLER} [--python PYTHON] REQUIREMENTS\n")
    return ExitCode.USAGE


def _install(python: Path, requirements: Path) -> int:
    text = requirements.read_text(encoding="utf-8")
    configuration = uv_configuration(pip_options(os.environ), os.environ)
    has_pip = importlib.util.find_spec("pip") is not None
    uv = find_uv()
    if uv is not None and (_can_use_uv(text, configuration) or not has_pip):
        for option in configuration.unknown:
            sys.stdout.write(f"WARNING: uv ignores the option {option} of pip\n")
        arguments = [*_UV, *configuration.arguments, "--python", str(python)]
        # pip requires a hash of every package as soon as one has a hash.
        arguments += ["--require-hashes"] if "--hash" in text else []
        with lent_metadata(python):
            return _run(
                [uv, *arguments, "--requirement", str(requirements)],
                {**os.environ, **configuration.variables, "UV_NO_WRAP": "1"},
            )
    if has_pip:
        # The pip of this interpreter installs into the other environment, which then needs no pip.
        command = [sys.executable, "-m", "pip", "--python", str(python), *_PIP, str(requirements)]
        return _run(command, os.environ)
    sys.stdout.write(
        "ERROR: cannot install packages: neither uv nor pip is installed beside Skysail; "
        "add one of them to its environment\n"
    )
    return ExitCode.FAILED


def find_uv() -> str | None:
    """Return the path of uv, or None if it is not installed."""
    if importlib.util.find_spec("uv") is not None:
        import uv

        try:
            return str(uv.find_uv_bin())
        except FileNotFoundError:
            pass
    return shutil.which("uv")


def _can_use_uv(text: str, configuration: UvConfiguration) -> bool:
    return has_only_uv_lines(text) and not configuration.unknown


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        output = process.stdout
        assert output is not None
        while line := output.readline(_LINE_BYTES):
            sys.stdout.write(without_credentials(line.decode(errors="replace")))
            sys.stdout.flush()
    return ExitCode.OK if process.returncode == 0 else ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

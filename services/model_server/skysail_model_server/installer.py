"""`python -m skysail_model_server.installer install|remove DIRECTORY`: an environment in a volume.

The variable SKYSAIL_REQUIREMENTS holds the lines of a requirements file. An environment contains its
own path, so that it is built in place; if pip fails, it is removed.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from skysail_common.process.data_dir import cannot_use
from skysail_common.process.virtual_environments import install_command, make_environment
from skysail_common.states import ExitCode
from skysail_model_server.settings import requirements_text

_MARKER = ".complete"
"""File that marks a complete environment; it is written last."""


def main(arguments: Sequence[str]) -> int:
    """Install or remove, and return the exit status, which is that of pip if pip fails."""
    if len(arguments) != 2 or arguments[0] not in ("install", "remove"):
        sys.stderr.write(
            "usage: python -m skysail_model_server.installer install|remove DIRECTORY\n"
        )
        return ExitCode.USAGE
    directory = Path(arguments[1])
    if arguments[0] == "install" and _is_complete(directory):
        # A complete environment stays, because pods may use it.
        sys.stdout.write(f"environment {directory.name} is complete\n")
        return ExitCode.OK
    # The directory is absent, or holds an incomplete environment or one to remove.
    shutil.rmtree(directory, ignore_errors=True)
    if arguments[0] == "remove":
        return ExitCode.OK
    try:
        make_environment(directory)
        requirements = directory / "requirements.txt"
        requirements.write_text(requirements_text(), encoding="utf-8")
        # Both outputs go to one stream, so that the lines of the log keep their order.
        status = subprocess.run(
            install_command(directory, requirements), stderr=subprocess.STDOUT, check=False
        ).returncode
        if status == ExitCode.OK:
            (directory / _MARKER).touch()
    except PermissionError as error:
        # The volume has another owner; the kubelet changes it only for some kinds of volumes.
        sys.stderr.write(f"ERROR: {cannot_use(directory, error).message}\n")
        status = ExitCode.FAILED
    except OSError as error:
        sys.stderr.write(f"ERROR: cannot build the environment: {error}\n")
        status = ExitCode.FAILED
    if status != ExitCode.OK:
        shutil.rmtree(directory, ignore_errors=True)
    return status


def _is_complete(directory: Path) -> bool:
    return (directory / _MARKER).exists() and (directory / "bin" / "python").exists()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Virtual environments that see the packages of the one that makes them; what is installed comes first."""

import sys
import sysconfig
import venv
from pathlib import Path

INSTALL = (
    "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
    "--requirement",
)  # fmt: skip
"""Arguments of pip, before the path of a requirements file."""


def make_environment(directory: Path) -> None:
    """Make an environment in a directory that does not exist, or is empty.

    Raises:
        OSError: it cannot be written.
    """
    venv.EnvBuilder(symlinks=True, with_pip=False).create(directory)
    # A .pth file adds our packages behind those of the environment.
    site = Path(
        sysconfig.get_path("purelib", vars={"base": str(directory), "platbase": str(directory)})
    )
    own = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    lines = [*own, *(f"import site; site.addsitedir({path!r})" for path in own)]
    (site / "skysail-base.pth").write_text("\n".join(lines) + "\n")


def install_command(directory: Path, requirements: Path) -> list[str]:
    """Return the command that installs what a requirements file says into an environment."""
    # Our own pip installs into the other one: nothing to bootstrap.
    python = str(directory / "bin" / "python")
    return [sys.executable, "-m", "pip", "--python", python, *INSTALL, str(requirements)]

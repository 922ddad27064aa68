"""Virtual environments on top of the present one; their own packages take precedence."""

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
    """Create an environment in a directory that is absent or empty.

    Raises:
        OSError: the directory cannot be written.
    """
    venv.EnvBuilder(symlinks=True, with_pip=False).create(directory)
    # A .pth file adds the packages of the present environment after those of the new one.
    site = Path(
        sysconfig.get_path("purelib", vars={"base": str(directory), "platbase": str(directory)})
    )
    own = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    lines = [*own, *(f"import site; site.addsitedir({path!r})" for path in own)]
    (site / "skysail-base.pth").write_text("\n".join(lines) + "\n")


def install_command(directory: Path, requirements: Path) -> list[str]:
    """Return the command that installs a requirements file into an environment."""
    # The pip of this interpreter installs into the other environment, which then needs no pip.
    python = str(directory / "bin" / "python")
    return [sys.executable, "-m", "pip", "--python", python, *INSTALL, str(requirements)]

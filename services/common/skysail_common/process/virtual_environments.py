"""Virtual environments on top of other packages; their own packages take precedence."""

import contextlib
import shutil
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

INSTALLER = "skysail_common.process.package_installer"
"""Module that installs a requirements file, with uv or pip."""

_BASE = "skysail-base.pth"
"""File of an environment with the directories of the packages below it."""
_LENT = "skysail-lent"
"""File that marks metadata of the packages below an environment."""


def make_environment(directory: Path, base: Sequence[Path] = ()) -> None:
    """Create an environment in a directory that is absent or empty.

    Args:
        directory: Directory of the environment.
        base: Directories of packages that it sees too; those of the present environment if empty.

    Raises:
        OSError: the directory cannot be written.
    """
    venv.EnvBuilder(symlinks=True, with_pip=False).create(directory)
    # A .pth file adds the packages of the base after those of the environment.
    own = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    below = dict.fromkeys(map(str, base) if base else own)
    lines = [*below, *(f"import site; site.addsitedir({path!r})" for path in below)]
    (_site_packages(directory) / _BASE).write_text("\n".join(lines) + "\n")


def install_command(directory: Path, requirements: Path) -> list[str]:
    """Return the command that installs a requirements file into an environment."""
    python = str(directory / "bin" / "python")
    return [sys.executable, "-m", INSTALLER, "--python", python, str(requirements)]


@contextlib.contextmanager
def lent_metadata(python: Path) -> Iterator[None]:
    """Show the packages below an environment to a uv that installs into it.

    uv reads only the directory of an environment and ignores its .pth files. With copies of their
    metadata it keeps the packages that satisfy the requirements, as pip does.
    """
    site = _site_packages(python.parent.parent)
    lines = (site / _BASE).read_text().splitlines() if (site / _BASE).exists() else []
    below = [Path(line) for line in lines if not line.startswith("import ")]
    for metadata in (each for directory in below for each in directory.glob("*.dist-info")):
        if not (site / metadata.name).exists():
            shutil.copytree(metadata, site / metadata.name)
            (site / metadata.name / _LENT).touch()
    try:
        yield
    finally:
        # uv itself removed the metadata of the packages that it replaced.
        for mark in site.glob(f"*.dist-info/{_LENT}"):
            shutil.rmtree(mark.parent, ignore_errors=True)


def _site_packages(directory: Path) -> Path:
    places = {"base": str(directory), "platbase": str(directory)}
    return Path(sysconfig.get_path("purelib", vars=places))

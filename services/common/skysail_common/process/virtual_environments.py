"""Virtual environments on top of the present one; their own packages take precedence."""

import contextlib
import shutil
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

INSTALLER = "skysail_common.process.package_installer"
"""Module that installs a requirements file, with uv or pip."""

_LENT = "skysail-lent"
"""File that marks metadata of the present environment in another one."""


def make_environment(directory: Path) -> None:
    """Create an environment in a directory that is absent or empty.

    Raises:
        OSError: the directory cannot be written.
    """
    venv.EnvBuilder(symlinks=True, with_pip=False).create(directory)
    # A .pth file adds the packages of the present environment after those of the new one.
    site = _site_packages(directory)
    own = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    lines = [*own, *(f"import site; site.addsitedir({path!r})" for path in own)]
    (site / "skysail-base.pth").write_text("\n".join(lines) + "\n")


def install_command(directory: Path, requirements: Path) -> list[str]:
    """Return the command that installs a requirements file into an environment."""
    python = str(directory / "bin" / "python")
    return [sys.executable, "-m", INSTALLER, "--python", python, str(requirements)]


@contextlib.contextmanager
def lent_metadata(python: Path) -> Iterator[None]:
    """Show the packages of the present environment to a uv that installs into another one.

    uv reads only the directory of an environment and ignores its .pth files. With copies of their
    metadata it keeps the packages that satisfy the requirements, as pip does.
    """
    site = _site_packages(python.parent.parent)
    own = {Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))}
    if site in own:
        yield
        return
    for metadata in (each for directory in own for each in directory.glob("*.dist-info")):
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

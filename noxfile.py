"""Unit tests on the other interpreters that are supported: `.venv/bin/nox`, one of them: `-s unit-3.10`."""

import nox

nox.needs_version = ">=2025.2"
# Kept between runs; what was installed is looked at again.
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.envdir = ".cache/nox"

GROUPS = nox.project.load_toml("pyproject.toml")
PACKAGES = [
    "skysail",
    "skysail.cli.main",
    "skysail_common.store",
    "skysail_frontend.app",
    "skysail_management.app",
    "skysail_model_server.app",
]


@nox.session(python=["3.10", "3.12", "3.13"])
def unit(session: nox.Session) -> None:
    """Import what starts every program, then run the unit tests but those that look at the time."""
    packages = nox.project.dependency_groups(GROUPS, "unit")
    session.install("--editable", ".[all]", *packages, silent=True)
    imports = "; ".join(f"import {package}" for package in PACKAGES)
    session.run("python", "-W", "error", "-c", imports)
    pytest = ("python", "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider")
    session.run(*pytest, "-m", "not slow and not timed", "tests/unit", *session.posargs)

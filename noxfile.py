"""Tests on the other interpreters that are supported: `.venv/bin/nox`, or `.venv/bin/nox -s unit-3.10`."""

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
PYTEST = ["python", "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider"]


@nox.session(python=["3.10", "3.12"])
def unit(session: nox.Session) -> None:
    """Import what starts every program, then run the unit tests but those that look at the time."""
    install(session, "unit")
    session.run(*PYTEST, "-m", "not slow and not timed", "tests/unit", *session.posargs)


@nox.session(python="3.13")
def coverage(session: nox.Session) -> None:
    """Do the same with the contract tests of the first tier, and show what they run of the code."""
    install(session, "test")
    # The interpreter does the counting from 3.12 on, at a fraction of the cost.
    session.env["COVERAGE_CORE"] = "sysmon"
    chosen = "not slow and not timed and not integration"
    session.run(*PYTEST, "--tier", "first", "-m", chosen, "--cov", *session.posargs)


def install(session: nox.Session, group: str) -> None:
    """Install everything as a developer does, and see that it can be imported."""
    packages = nox.project.dependency_groups(GROUPS, group)
    session.install("--editable", ".[all]", *packages, silent=True)
    imports = "; ".join(f"import {package}" for package in PACKAGES)
    session.run("python", "-W", "error", "-c", imports)

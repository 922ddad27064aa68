"""Licences and versions agree between the packages of this repository."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python 3.10 has no TOML reader")

ROOT = Path(__file__).parents[2]
CRATES = ("transport", "transport/fuzz", "benchmarks/load")


def read(path: str) -> dict[str, Any]:
    """Return the content of a TOML file."""
    return dict(tomllib.loads((ROOT / path).read_text()))


@pytest.mark.parametrize("path", ["pyproject.toml", "transport/pyproject.toml"])
def test_packages_carry_their_licence(path: str):
    project = read(path)["project"]
    assert project["license"] == "Apache-2.0"
    for name in project["license-files"]:
        assert (ROOT / path).parent.joinpath(name).read_text().strip()
    assert "Apache License" in (ROOT / path).parent.joinpath("LICENSE").read_text()


@pytest.mark.parametrize("crate", CRATES)
def test_crates_carry_their_licence_and_locked_versions(crate: str):
    assert read(f"{crate}/Cargo.toml")["package"]["license"] == "Apache-2.0"
    names = {package["name"] for package in read(f"{crate}/Cargo.lock")["package"]}
    assert set(read(f"{crate}/Cargo.toml")["dependencies"]) - {"transport"} <= names


def test_named_crates_have_the_locked_versions():
    locked = {(p["name"], p["version"]) for p in read("transport/Cargo.lock")["package"]}
    text = (ROOT / "transport/THIRD-PARTY-LICENSES").read_text()
    under_apache = re.findall(r"^  (\S+) (\d+\.\d+\.\d+\S*)$", text, re.MULTILINE)
    others = re.findall(r"^-{80}\n(\S+) (\S+) \(", text, re.MULTILINE)
    assert len(under_apache) > 10
    assert len(others) > 5
    assert {*under_apache, *others} <= locked


def test_the_extra_asks_for_the_transport_of_this_repository():
    version = read("transport/Cargo.toml")["package"]["version"]
    assert read("transport/pyproject.toml")["project"]["version"] == version
    [native] = read("pyproject.toml")["project"]["optional-dependencies"]["native"]
    assert native.startswith(f"skysail-transport=={version};")

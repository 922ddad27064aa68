"""All files of a local package travel, except private ones; installed packages do not."""

import importlib
import importlib.machinery
import importlib.metadata
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skysail.artifact import package_files
from skysail.artifact.build import Artifact, build_artifact
from skysail.artifact.distributions import needed_packages
from skysail.artifact.local_modules import local_modules
from skysail_common.errors import InvalidInput
from skysail_testing.artifacts import files_of, members_of, run_in_replica

# Definitions of this module are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

X = np.ones((1, 2))
PREDICT = "def predict(x): return x"
EXTENSION = importlib.machinery.EXTENSION_SUFFIXES[0]


def load(name: str) -> Any:
    return importlib.import_module(name)


def packages_of(artifact: Artifact) -> dict[str, str]:
    """Return the packages of an artifact without the one that every pickle needs."""
    return {
        name: each for name, each in artifact.manifest.packages.items() if name != "cloudpickle"
    }


def test_a_package_travels_with_its_data_files(write, user_dir: Path, tmp_path: Path):
    write(
        "words/__init__.py",
        """
        import json
        from pathlib import Path
        WORDS = json.loads((Path(__file__).parent / "data" / "words.json").read_text())
        """,
    )
    write("words/data/words.json", '["a", "b"]')
    (user_dir / "words" / "weights.bin").write_bytes(bytes(range(256)))
    function = lambda x: x * len(__import__("words").WORDS)  # noqa: E731

    def predict(x):
        import words

        return x * len(words.WORDS)

    artifact = build_artifact(predict, example=X)
    assert files_of(artifact) == ["words/__init__.py", "words/data/words.json", "words/weights.bin"]
    assert members_of(artifact)["modules/words/weights.bin"] == bytes(range(256))
    assert run_in_replica(artifact, tmp_path / "replica") == "[[2.0, 2.0]]"
    assert function(X).tolist() == [[2.0, 2.0]]


def test_caches_environments_and_secrets_do_not_travel(write, user_dir: Path):
    for path in (
        ".env", ".git/config", ".ipynb_checkpoints/a.py", ".netrc", "__pycache__/a.pyc",
        "a.ipynb", "a.pyc", "env2/pyvenv.cfg", "env2/lib/python3/x.py", "mine.egg-info/PKG-INFO",
        "node_modules/a.js", "prod.env", "sub/.secret", "venv/x.py",
    ):  # fmt: skip
        write(f"clean/{path}", "x = 1")
    write("clean/server.key", "-----BEGIN RSA PRIVATE KEY-----\nabc")
    write("clean/ca.pem", "-----BEGIN CERTIFICATE-----\nabc")
    write("clean/public.key", "not secret")
    write("clean/__init__.py", PREDICT)
    write("clean/id_rsa", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc")
    write("clean/account.json", '{"private_key": "-----BEGIN PRIVATE KEY-----\\nabc"}')
    write("clean/mine.asc", "-----BEGIN PGP PRIVATE KEY BLOCK-----\nabc")
    write("clean/store.jks", "binary")
    artifact = build_artifact(load("clean").predict, example=X)
    assert files_of(artifact) == ["clean/__init__.py", "clean/ca.pem", "clean/public.key"]


def test_a_source_that_holds_a_key_travels_because_it_is_imported(write):
    write("signs/__init__.py", PREDICT + "\nKEY = '-----BEGIN PRIVATE KEY-----'")
    assert files_of(build_artifact(load("signs").predict, example=X)) == ["signs/__init__.py"]


def test_a_file_that_cannot_be_read_is_named(write, monkeypatch):
    write("locked/__init__.py", PREDICT)
    file = write("locked/data.bin", "x")
    read_bytes = Path.read_bytes

    def refuses(path: Path) -> bytes:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuses)
    with pytest.raises(InvalidInput) as caught:
        build_artifact(load("locked").predict, example=X)
    assert caught.value.message == (
        f"cannot send the local package 'locked' with the function: cannot read {file}: "
        "Permission denied; make it readable, or move it out of the package"
    )


def test_too_much_data_is_refused_and_the_largest_named(write, user_dir: Path, monkeypatch):
    monkeypatch.setattr(package_files, "MAX_BYTES", 3 << 20)
    write("large/__init__.py", PREDICT)
    for name, size in (("a.bin", 1), ("b/big.bin", 2), ("c.bin", 1)):
        write(f"large/{name}").write_bytes(bytes(size << 20))
    with pytest.raises(InvalidInput) as caught:
        build_artifact(load("large").predict, example=X)
    assert caught.value.message == (
        "cannot send the local package 'large' with the function: it has more than 3 MiB, the "
        "largest is large/b/big.bin (2.0 MiB); move data out of the package, or build a wheel of "
        "it and name that in pkgs_to_install"
    )


def test_too_many_files_are_refused_before_they_are_read(write, user_dir: Path, monkeypatch):
    monkeypatch.setattr(package_files, "MAX_FILES", 10)
    write("many/__init__.py", PREDICT)
    for index in range(100):
        write(f"many/{index}.txt")
    reads: list[Path] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    with pytest.raises(InvalidInput, match="'many' with the function: it has more than 10 files"):
        build_artifact(load("many").predict, example=X)
    assert reads == []


def test_compiled_modules_are_refused_with_the_fix(write):
    write(f"fastsum{EXTENSION}")

    def predict(x):
        import fastsum  # type: ignore[import-not-found]

        return fastsum.total(x)

    with pytest.raises(InvalidInput) as caught:
        build_artifact(predict, input_type="doubles", check=False)
    assert caught.value.message == (
        f"cannot send the local module 'fastsum' with the function: fastsum{EXTENSION} is compiled "
        "for this machine; build a wheel of it and name that in pkgs_to_install"
    )


def test_compiled_modules_of_a_package_are_refused_if_they_are_imported(write):
    write(
        "mixed/__init__.py", "def predict(x):\n    from mixed import _fast\n    return _fast.f(x)"
    )
    write(f"mixed/_fast{EXTENSION}")
    write("mixed/libdata.so")
    with pytest.raises(InvalidInput, match=r"local module 'mixed\._fast' .*: _fast\."):
        build_artifact(load("mixed").predict, input_type="doubles", check=False)


def test_a_package_with_a_loaded_compiled_module_is_refused_before_it_is_read(
    write, user_dir, monkeypatch
):
    write("compiled_pkg/__init__.py", PREDICT)
    module = load("compiled_pkg")
    loaded = types.ModuleType("compiled_pkg._speed")
    loaded.__file__ = str(user_dir / "compiled_pkg" / f"_speed{EXTENSION}")
    monkeypatch.setitem(sys.modules, "compiled_pkg._speed", loaded)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(InvalidInput, match=r"local module 'compiled_pkg\._speed'"):
        build_artifact(module.predict, example=X)


def test_a_library_that_nothing_imports_is_data(write):
    write("ctyped/__init__.py", PREDICT)
    write("ctyped/libfast.so")
    artifact = build_artifact(load("ctyped").predict, example=X)
    assert files_of(artifact) == ["ctyped/__init__.py", "ctyped/libfast.so"]


def install(write, directory: str, name: str, *files: str, version: str = "1.0") -> None:
    """Write the files of an installation by pip into a directory."""
    for file in files:
        write(f"{directory}{file}", "VALUE = 1")
    info = f"{directory}{name.replace('-', '_')}-{version}.dist-info"
    write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    write(f"{info}/RECORD", "".join(f"{file},,\n" for file in files))


def test_packages_that_pip_put_into_any_directory_are_packages(write, user_dir, monkeypatch):
    install(write, "deps/", "Py-Thing", "pything/__init__.py", "pything/core.py", "single_thing.py")
    write("deps/beside.py", "VALUE = 2")
    monkeypatch.setattr(sys, "path", [str(user_dir / "deps"), *sys.path])

    def predict(x):
        import beside  # type: ignore[import-not-found]
        import pything.core  # type: ignore[import-not-found]
        import single_thing  # type: ignore[import-not-found]

        return x * pything.core.VALUE * single_thing.VALUE * beside.VALUE

    artifact = build_artifact(predict, example=X)
    assert files_of(artifact) == ["beside.py"]
    assert packages_of(artifact) == {"Py-Thing": "1.0"}


def test_modules_in_site_packages_are_installed(write, user_dir, monkeypatch):
    write("elsewhere/dist-packages/bigthing/__init__.py", "VALUE = 1")
    monkeypatch.setattr(sys, "path", [str(user_dir / "elsewhere/dist-packages"), *sys.path])
    assert local_modules({"bigthing"}).files == {}


def test_an_editable_install_travels_with_its_data(write, user_dir, monkeypatch, tmp_path: Path):
    # pip writes metadata to site-packages, and `egg-info` beside the sources of the project.
    write("project/src/editable/__init__.py", PREDICT)
    write("project/src/editable/labels.txt", "a b")
    write("project/src/editable.egg-info/PKG-INFO", "Name: editable\nVersion: 1\n")
    write("project/src/editable.egg-info/top_level.txt", "editable\n")
    install(write, "site-packages/", "editable", "__editable__.editable-1.pth")
    places = [str(user_dir / "site-packages"), str(user_dir / "project" / "src")]
    monkeypatch.setattr(sys, "path", [*places, *sys.path])
    artifact = build_artifact(load("editable").predict, example=X)
    assert files_of(artifact) == ["editable/__init__.py", "editable/labels.txt"]
    assert packages_of(artifact) == {}


FRAUD = {
    "fraud/__init__.py": "",
    "fraud/model.py": """
        from __future__ import annotations
        import typing
        import click
        from . import features
        if typing.TYPE_CHECKING:
            import hypothesis
        try:
            import yaml
        except ImportError:
            yaml = None

        def predict(x):
            return features.scale(x)
        """,
    "fraud/features.py": "import rich.table\ndef scale(x):\n    import httpx\n    return x",
    "fraud/test_model.py": "import pytest\nimport hypothesis",
    "fraud/plots.py": "import sortedcontainers",
}


def test_only_packages_that_the_function_reaches_are_recorded(write):
    for path, source in FRAUD.items():
        write(path, source)
    artifact = build_artifact(load("fraud.model").predict, example=X)
    assert packages_of(artifact) == {
        "click": importlib.metadata.version("click"),
        "rich": importlib.metadata.version("rich"),
    }
    assert artifact.manifest.modules["rich"] == ("rich",)


def test_a_shared_namespace_records_only_the_distribution_of_the_module(
    write, user_dir, monkeypatch
):
    install(write, "", "google-one", "nsgoogle/one/__init__.py")
    install(write, "", "google-two", "nsgoogle/two.py", "nsgoogle/deep/three/__init__.py")
    install(write, "", "google-four", "nsgoogle/deep/four.py", "__pycache__/x.pyc")
    names = {"nsgoogle.one.message", "nsgoogle.deep.three", "nsgoogle"}
    found = needed_packages(names)
    assert found.modules == {
        "nsgoogle.deep.three": ("google-two",),
        "nsgoogle.one": ("google-one",),
    }
    assert set(found.versions) == {"google-one", "google-two"}


def test_two_distributions_of_one_module_are_both_recorded(write, user_dir):
    install(write, "", "opencv-full", "cv2x/__init__.py")
    install(write, "", "opencv-headless", "cv2x/__init__.py", version="2.0")
    found = needed_packages({"cv2x.data"})
    assert found.modules == {"cv2x": ("opencv-full", "opencv-headless")}
    assert found.versions == {"opencv-full": "1.0", "opencv-headless": "2.0"}


def test_modules_that_are_loaded_by_computed_names_are_followed(write):
    write(
        "plugged/__init__.py",
        "import importlib\nplugin = importlib.import_module('plugged.' + 'plugin')\n" + PREDICT,
    )
    write("plugged/plugin.py", "import plugged_helper")
    write("plugged_helper.py")
    assert "plugged_helper.py" in files_of(build_artifact(load("plugged").predict, example=X))

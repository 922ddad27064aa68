import sys
from pathlib import Path

import numpy as np
import pytest

from skysail.artifact.build import build_artifact
from skysail.artifact.user_code import user_code
from skysail_common.errors import InvalidInput


@pytest.fixture
def package(tmp_path: Path) -> Path:
    directory = tmp_path / "own_code"
    (directory / "data").mkdir(parents=True)
    (directory / "__init__.py").write_text("NAME = 'own'\n")
    (directory / "data" / "words.txt").write_text("one two")
    (directory / ".env").write_text("KEY=hush")
    (directory / "try.ipynb").write_text("{}")
    (directory / "key.txt").write_text("-----BEGIN PRIVATE KEY-----\nhush")
    return directory


def failure(*code: object) -> str:
    with pytest.raises(InvalidInput) as caught:
        user_code(code)  # type: ignore[arg-type]
    return caught.value.message


def test_packages_travel_with_their_data_files_and_without_secrets(package: Path, tmp_path: Path):
    (tmp_path / "own_helpers.py").write_text("ANSWER = 42\n")
    found = user_code([package, str(tmp_path / "own_helpers.py")])
    assert found == {
        "own_code/__init__.py": b"NAME = 'own'\n",
        "own_code/data/words.txt": b"one two",
        "own_helpers.py": b"ANSWER = 42\n",
    }


def test_relative_paths_and_names_of_modules(package: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "own_module.py").write_text("")
    by_path = user_code([package])
    monkeypatch.chdir(tmp_path)
    assert user_code(["./own_code"]) == user_code(["own_code/"]) == by_path
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert user_code(["own_code", "own_module"]) == {**by_path, "own_module.py": b""}


def test_a_compiled_file_is_refused_and_named(package: Path):
    (package / "fast.so").write_bytes(b"\x7fELF")
    message = failure(package)
    assert f"{package}/fast.so is compiled for this machine" in message
    assert message.endswith("build a wheel of it and name that in pkgs_to_install")
    assert "is compiled for this machine" in failure(package / "fast.so")


def test_what_python_cannot_import_is_refused(tmp_path: Path):
    (tmp_path / "my-code.py").write_text("")
    (tmp_path / "table.csv").write_text("")
    (tmp_path / "my folder").mkdir()
    for name in ("my-code.py", "table.csv", "my folder"):
        assert "Python cannot import a file of this name" in failure(tmp_path / name)
    for name in ("no_such_module_here", "./no/such", "a b"):
        assert f"cannot send the code {name!r}: there is no such file" in failure(name)


def test_two_modules_of_one_name_are_refused(package: Path, tmp_path: Path):
    other = tmp_path / "other" / "own_code.py"
    other.parent.mkdir()
    other.write_text("")
    assert "modules of the same name hide each other" in failure(package, other)
    assert user_code([package, package]) == user_code([package])


def test_the_code_is_in_the_artifact_beside_the_model(package: Path):
    artifact = build_artifact(lambda x: x * 2, example=np.ones((1, 3)), code=[package])
    paths = {blob.path for blob in artifact.manifest.blobs}
    assert {"modules/own_code/__init__.py", "modules/own_code/data/words.txt"} <= paths

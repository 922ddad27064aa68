import json
import os
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skysail.artifact.build import build_artifact
from skysail.packaging.base import PackagingOptions
from skysail.packaging.torchserve import package
from skysail_common.errors import InvalidInput
from skysail_common.tensors import Content, InputType

Package = Callable[[Any], Any]

HANDLER = "def handle(data, context):\n    return data and [len(row['body']) for row in data]\n"


def archive(path: Path, members: dict[str, bytes] | None = None, **model: Any) -> Path:
    described = {"modelName": "m", "handler": "handler.py", **model}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": described}))
        for name, content in {"handler.py": HANDLER.encode(), **(members or {})}.items():
            out.writestr(name, content)
    return path


@pytest.fixture
def packaged() -> Iterator[Callable[[Any], Any]]:
    """Package a path, and remove what that unpacked."""
    made = []

    def packaged(path: Any) -> Any:
        made.append(package(path, PackagingOptions()))
        return made[-1]

    yield packaged
    for directory in [each for found in made if found for each in found.temporary]:
        directory.cleanup()


def test_an_archive_travels_unpacked(packaged: Package, tmp_path: Path):
    found = packaged(archive(tmp_path / "m.mar", {"extra/labels.json": b"{}"}))
    folder = found.data["model"]
    files = {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}
    assert files == {"MAR-INF/MANIFEST.json", "extra/labels.json", "handler.py"}
    assert (found.loader, found.calling, found.open) == ("torchserve", "list", None)


@pytest.mark.parametrize("input_type", [None, "strings"])
def test_an_archive_takes_texts_and_json(tmp_path: Path, input_type: str | None):
    artifact = build_artifact(archive(tmp_path / "m.mar"), input_type=input_type)
    signature = artifact.manifest.signature.signature()
    artifact.close()
    assert signature.input_type is InputType.STRINGS
    assert [each.content for each in signature.inputs] == [Content.JSON_OR_TEXT]


def test_an_unpacked_archive_travels_too(packaged: Package, tmp_path: Path):
    with zipfile.ZipFile(archive(tmp_path / "m.mar")) as opened:
        opened.extractall(tmp_path / "folder")
    assert packaged(tmp_path / "folder").data == {"model": tmp_path / "folder"}


def test_the_requirements_of_the_archive_are_used(packaged: Package, tmp_path: Path):
    own = {"requirements.txt": b"pillow==11.0\n# none\ntorch==2.0.1\n"}
    path = archive(
        tmp_path / "m.mar", own, requirementsFile="requirements.txt", serializedFile="net.pt"
    )
    assert packaged(path).requirements == ("pillow==11.0", "torch==2.0.1")
    (without,) = packaged(archive(tmp_path / "n.mar", serializedFile="net.pt")).requirements
    assert without.startswith("torch")


@pytest.mark.parametrize(
    "name", ["../escaped.py", "/tmp/escaped.py", "a/../../escaped.py", "..\\b"]
)
def test_a_member_that_leads_out_of_the_archive_is_refused(
    packaged: Package, tmp_path: Path, name: str
):
    with pytest.raises(InvalidInput, match="leads out of the archive"):
        packaged(archive(tmp_path / "m.mar", {name: b""}))
    assert not (tmp_path.parent / "escaped.py").exists()


def test_a_link_is_refused(packaged: Package, tmp_path: Path):
    path = archive(tmp_path / "m.mar")
    link = zipfile.ZipInfo("passwords")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as out:
        out.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidInput, match="is a link"):
        packaged(path)


def test_a_bomb_is_refused_before_it_is_unpacked(packaged: Package, tmp_path: Path):
    path = archive(tmp_path / "m.mar", {"zeros": bytes(128 << 20)})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InvalidInput, match="more than 100 times its size"):
        packaged(path)


def test_two_members_of_one_path_are_refused(packaged: Package, tmp_path: Path):
    path = archive(tmp_path / "m.mar")
    with zipfile.ZipFile(path, "a") as out, pytest.warns(UserWarning, match="Duplicate"):
        out.writestr("handler.py", "other")
    with pytest.raises(InvalidInput, match="damaged"):
        packaged(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no archive", "the archive is damaged"),
        (b"", "the archive is damaged"),
    ],
)
def test_another_file_of_that_name_is_refused(
    packaged: Package, tmp_path: Path, content: bytes, says: str
):
    (tmp_path / "m.mar").write_bytes(content)
    with pytest.raises(InvalidInput, match=says):
        packaged(tmp_path / "m.mar")


def test_cut_archives_are_refused(packaged: Package, tmp_path: Path):
    whole = archive(tmp_path / "m.mar", {"weights": os.urandom(4096)}).read_bytes()
    for size in range(0, len(whole) - 1, 97):
        (tmp_path / "cut.mar").write_bytes(whole[:size])
        with pytest.raises(InvalidInput):
            packaged(tmp_path / "cut.mar")


def test_a_handler_that_the_archive_lacks_is_named(packaged: Package, tmp_path: Path):
    path = archive(tmp_path / "m.mar", handler="object_detector")
    with pytest.raises(
        InvalidInput, match=r"'object_detector', which is neither a file .* nor one"
    ):
        packaged(path)


def test_an_archive_without_a_handler_is_refused(packaged: Package, tmp_path: Path):
    with pytest.raises(InvalidInput, match="it names no handler"):
        packaged(archive(tmp_path / "m.mar", handler=None))


def test_other_paths_and_objects_belong_to_other_formats(packaged: Package, tmp_path: Path):
    (tmp_path / "m.zip").write_bytes(b"")
    assert [packaged(each) for each in (tmp_path, tmp_path / "m.zip", sys)] == [None] * 3

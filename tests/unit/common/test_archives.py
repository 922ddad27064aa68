"""Archives of format 1 unpack into their directory, or are refused."""

import contextlib
import io
import platform
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common import artifact_files
from skysail_common.artifact_files import unpack_archive
from skysail_common.artifacts import Manifest, SignatureRecord
from skysail_common.errors import InvalidInput
from skysail_common.tensors import DataType, Signature, TensorSpec
from skysail_testing.examples import examples

VALUES = TensorSpec("values", DataType.FP64, (-1,))
MANIFEST = Manifest(
    format=1,
    skysail_version="0",
    python_version=platform.python_version(),
    signature=SignatureRecord.of(Signature((VALUES,), (VALUES,))),
)


def archive_of(*others: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", MANIFEST.model_dump_json())
        archive.writestr("model.pkl", b"pickled")
        for name, content in others:
            archive.writestr(name, content)
    return buffer.getvalue()


def unpack(directory: Path, content: bytes) -> Path:
    (directory / "archive").write_bytes(content)
    target = directory / "outer" / "target"
    target.mkdir(parents=True)
    unpack_archive(directory / "archive", target)
    return target


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_an_archive_is_laid_out(tmp_path: Path):
    target = unpack(tmp_path, archive_of(("modules/a/b.py", b"x = 1"), ("sources.json", b"{}")))
    found = {each.relative_to(target).as_posix() for each in target.rglob("*") if each.is_file()}
    assert found == {"manifest.json", "model.pkl", "modules/a/b.py", "sources.json"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("../outside", b"x"), "'../outside' is not a path inside"),
        (("modules/../../outside", b"x"), "is not a path inside"),
        (("/tmp/outside", b"x"), "is not a path inside"),
        ((link("modules/link"), b"/etc/passwd"), "'modules/link' is no file"),
        (("modules/", b""), "is no file"),
        (("model.pkl/below", b"x"), "cannot unpack the artifact"),
        (("modules/" + "x" * 300, b"x"), "cannot unpack the artifact: file name too long"),
    ],
)
def test_an_unsafe_entry_is_refused(
    tmp_path: Path, entry: tuple[zipfile.ZipInfo | str, bytes], message: str
):
    with pytest.raises(InvalidInput, match=message):
        unpack(tmp_path, archive_of(entry))
    assert list((tmp_path / "outer").iterdir()) == [tmp_path / "outer" / "target"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_occurs_twice_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput, match="two of its files have the same path"):
        unpack(tmp_path, archive_of(("model.pkl", b"other")))


def test_a_bomb_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch):
    usage = artifact_files.shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(artifact_files.shutil, "disk_usage", lambda path: usage)
    content = archive_of(("modules/bomb", bytes(20_000_000)))
    assert len(content) < 100_000
    with pytest.raises(InvalidInput, match="10000000 are allowed or free here"):
        unpack(tmp_path, content)
    assert list((tmp_path / "outer" / "target").iterdir()) == []


def test_an_entry_longer_than_it_says_is_cut_and_refused(tmp_path: Path):
    content = archive_of(("modules/bomb", bytes(1_000_000)))
    size = (1_000_000).to_bytes(4, "little")
    assert content.count(size) == 2
    with pytest.raises(InvalidInput, match="corrupt"):
        unpack(tmp_path, content.replace(size, (10).to_bytes(4, "little")))
    bomb = tmp_path / "outer" / "target" / "modules" / "bomb"
    assert not bomb.exists() or bomb.stat().st_size <= 10


@settings(max_examples=examples(300))
@given(data=st.data())
def test_mutated_archives_are_refused_or_stay_in_their_directory(tmp_path_factory, data):
    content = bytearray(archive_of(("modules/a.py", b"x = 1"), ("data/b", bytes(2000))))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(content)] * 4 + [len(content) // 2, len(content) - 1]))
    directory = tmp_path_factory.mktemp("archive")
    with contextlib.suppress(InvalidInput):
        unpack(directory, bytes(content[:cut]))
    assert {each.name for each in directory.iterdir()} <= {"archive", "outer"}
    assert {each.name for each in (directory / "outer").iterdir()} == {"target"}
    written = sum(
        each.stat().st_size for each in (directory / "outer").rglob("*") if each.is_file()
    )
    assert written < 1_000_000

"""Which files of a version an image holds, and which are mounted."""

import zipfile
from pathlib import Path

import pytest

from skysail_common.identifiers import ModelVersion
from skysail_management.containers.base import PrepareFailed, VersionSpec
from skysail_management.containers.docker import version_files as module
from skysail_management.containers.docker.version_files import mounts_of, version_files
from skysail_testing.artifact_server import ANY_MANIFEST, ServedArtifact, served_artifact

VERSION = ModelVersion("m", "1")
FILES = {"data/large.bin": bytes(11), "data/small.bin": bytes(10), "files/a": b"a"}
ARTIFACT = "/opt/skysail/artifact"


@pytest.fixture(autouse=True)
def _ten_bytes_are_small(monkeypatch) -> None:
    monkeypatch.setattr(module, "_LARGE_BYTES", 10)


def stored(directory: Path, artifact: ServedArtifact) -> VersionSpec:
    (directory / "blobs").mkdir()
    (directory / artifact.sha256).write_bytes(artifact.content)
    for sha256, content in artifact.blobs.items():
        (directory / "blobs" / sha256).write_bytes(content)
    return VersionSpec(VERSION, artifact.sha256, "3.11.7")


def test_large_files_are_apart(tmp_path: Path):
    version = stored(tmp_path, served_artifact(FILES))
    files = version_files(tmp_path, version, tmp_path)
    assert list(files.large) == [f"{ARTIFACT}/data/large.bin"]
    assert list(files.small) == [
        f"{ARTIFACT}/{name}" for name in ("data/small.bin", "files/a", "manifest.json")
    ]
    for path, file in {**files.large, **files.small}.items():
        content = {**FILES, "manifest.json": served_artifact(FILES).content}
        assert file.read_bytes() == content[path.removeprefix(f"{ARTIFACT}/")]
    (mount,) = mounts_of(files.large)
    assert mount["ReadOnly"]
    assert Path(mount["Source"]).is_absolute()
    assert mount["Target"] == f"{ARTIFACT}/data/large.bin"


def test_versions_with_the_same_large_files_share_their_image(tmp_path: Path):
    texts = []
    for index, changed in enumerate([{}, {"files/a": b"b"}, {"data/large.bin": bytes(12)}]):
        directory = tmp_path / str(index)
        directory.mkdir()
        version = stored(directory, served_artifact({**FILES, **changed}))
        texts.append(version_files(directory, version, directory).large_names)
    assert texts[0] == texts[1] != texts[2]


def test_an_archive_is_unpacked_into_the_image(tmp_path: Path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        manifest = ANY_MANIFEST.model_copy(update={"format": 1})
        archive.writestr("manifest.json", manifest.model_dump_json())
        archive.writestr("model.pkl", bytes(20))
    artifact = ServedArtifact((tmp_path / "zip").read_bytes())
    files = version_files(tmp_path, stored(tmp_path, artifact), scratch)
    assert list(files.small) == [f"{ARTIFACT}/manifest.json", f"{ARTIFACT}/model.pkl"]
    assert files.large == {}


@pytest.mark.parametrize("content", [b"", b"PK", b"{}", b"PK\x03\x04 no archive"])
def test_a_damaged_artifact_is_named(tmp_path: Path, content: bytes):
    version = stored(tmp_path, ServedArtifact(content))
    with pytest.raises(PrepareFailed, match="cannot build the image: the"):
        version_files(tmp_path, version, tmp_path)


def test_a_missing_artifact_is_named(tmp_path: Path):
    with pytest.raises(PrepareFailed, match="lacks the artifact of m:1"):
        version_files(tmp_path, VersionSpec(VERSION, "a" * 64, "3.11.7"), tmp_path)

import os
from pathlib import Path

import numpy as np
import pytest

from skysail.artifact import build
from skysail.artifact.build import build_artifact
from skysail.artifact.user_files import user_files
from skysail_common.errors import InvalidInput


def test_all_files_of_a_folder_travel(tmp_path: Path):
    (tmp_path / "vocabulary" / "de").mkdir(parents=True)
    (tmp_path / "vocabulary" / "words.txt").write_text("a")
    (tmp_path / "vocabulary" / "de" / "words.txt").write_text("b")
    assert user_files({"v": tmp_path / "vocabulary"}) == {
        "v/de/words.txt": tmp_path / "vocabulary/de/words.txt",
        "v/words.txt": tmp_path / "vocabulary/words.txt",
    }


def test_folders_behind_links_travel_too(tmp_path: Path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "words.txt").write_text("a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    assert user_files({"v": tmp_path / "folder"}) == {
        "v/link/deep/words.txt": tmp_path / "folder/link/deep/words.txt"
    }


def test_a_link_to_a_folder_above_is_refused(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "up").symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match=r"up/folder: by a link it contains itself; remove"):
        user_files({"v": tmp_path / "folder"})


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch):
    (tmp_path / "secret").mkdir()
    real_access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path.name != "secret" and real_access(path, mode)
    )
    with pytest.raises(InvalidInput, match=r"secret: it is not readable; change its mode"):
        user_files({"v": tmp_path})


@pytest.mark.parametrize("name", ["x" * 600, "\udcff"])
def test_a_name_that_no_replica_can_use_is_refused(tmp_path: Path, name: str):
    (tmp_path / "w").write_text("")
    with pytest.raises(InvalidInput, match=r"cannot send the file 'files/.* shorter name in UTF-8"):
        build_artifact(lambda x: x, example=np.ones((1, 2)), files={name: tmp_path / "w"})


def test_too_many_files_of_a_format_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(build, "MAX_BLOBS", 0)
    with pytest.raises(InvalidInput, match=r"it has \d+ files; at most 0"):
        build_artifact(lambda x: x, input_type="doubles", check=False)


def test_a_file_of_two_names_is_refused(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("")
    with pytest.raises(InvalidInput, match="files= has it twice"):
        user_files({"a": tmp_path / "a", "a/b": tmp_path / "a" / "b"})


def test_files_change_the_artifact(tmp_path: Path):
    file = tmp_path / "weights"
    hashes = set()
    for content in ("1", "2"):
        file.write_text(content)
        artifact = build_artifact(lambda x: x, example=np.ones((1, 2)), files={"w": file})
        hashes.add(artifact.sha256)
        assert artifact.files["files/w"] == file
    assert len(hashes) == 2

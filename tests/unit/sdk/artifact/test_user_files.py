from pathlib import Path

import numpy as np
import pytest

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

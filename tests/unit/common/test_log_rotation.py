import os
import stat

import pytest

from skysail_common.process.log_rotation import rotate_if_full


def test_a_log_that_is_not_full_stays(tmp_path):
    path = tmp_path / "store.log"
    assert not rotate_if_full(path, 10)
    path.write_text("123456789")
    assert not rotate_if_full(path, 10)
    assert path.read_text() == "123456789"


def test_writers_continue_in_the_truncated_file(tmp_path):
    path = tmp_path / "store.log"
    with path.open("ab", buffering=0) as first, path.open("ab", buffering=0) as second:
        first.write(b"first\n")
        second.write(b"second\n")
        assert rotate_if_full(path, 10)
        first.write(b"third\n")
        second.write(b"fourth\n")
    assert path.read_text() == "third\nfourth\n"
    older = tmp_path / "store.log.1"
    assert older.read_text() == "first\nsecond\n"
    assert stat.S_IMODE(older.stat().st_mode) == 0o600


def test_one_older_file_is_kept(tmp_path):
    path = tmp_path / "store.log"
    for text in ("old", "new"):
        path.write_text(text)
        assert rotate_if_full(path, 1)
    assert (tmp_path / "store.log.1").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["store.log", "store.log.1"]


def test_a_log_is_truncated_even_if_the_copy_fails(tmp_path):
    path = tmp_path / "store.log"
    path.write_text("full")
    (tmp_path / "store.log.1").mkdir()
    with pytest.raises(OSError, match="directory"):
        rotate_if_full(path, 1)
    assert path.read_text() == ""

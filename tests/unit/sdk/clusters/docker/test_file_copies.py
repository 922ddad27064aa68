import os
import stat
from pathlib import Path

import pytest

from skysail.clusters.docker.file_copies import FileCopies
from skysail_common.errors import FailedPrecondition


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "tls.key"
    path.write_text("one")
    return path


def copies(tmp_path: Path, original: Path) -> tuple[FileCopies, Path]:
    directory = tmp_path / "copies"
    return FileCopies({"KEY_FILE": original}, directory, os.getuid()), directory / "KEY_FILE"


def test_only_the_owner_may_read_a_copy(tmp_path, original):
    original.chmod(0o644)
    files, copy = copies(tmp_path, original)
    files.renew()
    assert copy.read_text() == "one"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_the_user_of_the_service_owns_the_copies(tmp_path, original):
    directory = tmp_path / "copies"
    FileCopies({"KEY_FILE": original}, directory, 65532).renew()
    assert {directory.stat().st_uid, (directory / "KEY_FILE").stat().st_uid} == {65532}


def test_a_copy_follows_an_original_that_is_replaced_and_one_that_is_linked(tmp_path, original):
    link = tmp_path / "link.key"
    link.symlink_to(original)
    files, copy = copies(tmp_path, link)
    files.renew()
    before = copy.stat().st_ino
    files.renew()
    assert copy.stat().st_ino == before
    (tmp_path / "new").write_text("two")
    (tmp_path / "new").replace(original)
    files.renew()
    assert copy.read_text() == "two"
    assert copy.stat().st_ino != before


def test_a_file_that_is_missing_is_named_with_its_variable(tmp_path):
    files, _ = copies(tmp_path, tmp_path / "none")
    with pytest.raises(FailedPrecondition, match=r"cannot copy .*none of KEY_FILE: no such file"):
        files.renew()


def test_a_file_that_could_not_be_copied_is_copied_later(tmp_path, original):
    files, copy = copies(tmp_path, original)
    files.renew()
    content = original.read_bytes()
    original.unlink()
    with pytest.raises(FailedPrecondition):
        files.renew()
    assert copy.read_text() == "one"
    original.write_bytes(content + b" more")
    files.renew()
    assert copy.read_text() == "one more"

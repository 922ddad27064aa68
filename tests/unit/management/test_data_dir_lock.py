import errno
import os
from pathlib import Path

import pytest

from skysail.clusters import data_dir_lock
from skysail_common.errors import FailedPrecondition
from skysail_management.ownership.data_dir_lock import lock_data_dir


@pytest.fixture
def without_locks(monkeypatch) -> None:
    """A file system that knows no flock, such as some network file systems."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)


async def test_management_names_a_file_system_without_locks(tmp_path: Path, without_locks):
    with pytest.raises(FailedPrecondition, match="No locks available; use a file system") as caught:
        async with lock_data_dir(tmp_path):
            pass
    assert str(tmp_path) in caught.value.message


def test_the_supervisor_names_a_file_system_without_locks(tmp_path: Path, without_locks):
    with pytest.raises(FailedPrecondition, match="No locks available; use a file system"):
        data_dir_lock.lock(tmp_path)


async def test_a_data_directory_has_one_management(tmp_path: Path):
    async with lock_data_dir(tmp_path):
        with pytest.raises(FailedPrecondition, match="is in use by another management"):
            async with lock_data_dir(tmp_path):
                pass
    async with lock_data_dir(tmp_path):
        pass

import errno
import os
from pathlib import Path

import pytest

from skysail.clusters.data_dir_lock import LOCK_FILE, check_idle, lock, lock_holder
from skysail_common.errors import FailedPrecondition


def test_a_directory_that_nobody_uses_is_idle_and_stays_so(tmp_path: Path):
    directory = tmp_path / "data"
    check_idle(directory)
    check_idle(directory)
    assert lock_holder(directory) == 0


def test_a_directory_in_use_is_not_idle(tmp_path: Path):
    held = lock(tmp_path)
    try:
        with pytest.raises(FailedPrecondition, match="is in use by another cluster"):
            check_idle(tmp_path)
        assert lock_holder(tmp_path) == os.getpid()
    finally:
        os.close(held)


def test_a_directory_with_remains_of_a_killed_cluster_is_not_idle(tmp_path: Path):
    (tmp_path / LOCK_FILE).write_text("4711")
    for _ in range(2):
        with pytest.raises(FailedPrecondition) as caught:
            check_idle(tmp_path)
        assert caught.value.message == (
            f"data directory {tmp_path} has remains of a local cluster that was killed; remove them "
            "with 'skysail down', or use another --data-dir"
        )
    # `skysail down` still finds the remains.
    assert lock_holder(tmp_path) == 4711


def test_a_full_disk_is_named_and_the_directory_stays_unlocked(tmp_path: Path, monkeypatch):
    def write(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(FailedPrecondition) as caught:
            lock(tmp_path)
    assert caught.value.message.startswith(
        f"cannot write {tmp_path / LOCK_FILE}: no space left on device; free disk space, or choose another "
    )
    os.close(lock(tmp_path))

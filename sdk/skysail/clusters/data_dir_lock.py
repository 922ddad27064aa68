"""The lock of a data directory, by which one cluster of this machine uses it at a time."""

import fcntl
import os
from pathlib import Path

from skysail_common.errors import FailedPrecondition
from skysail_common.process.data_dir import cannot_lock, cannot_use, private_directory

LOCK_FILE = "cluster.lock"
"""File with the process that holds the lock, or that was killed before it released the lock."""


def lock(data_dir: Path) -> int:
    """Lock a data directory until the returned descriptor is closed or the process ends.

    Raises:
        FailedPrecondition: another cluster holds the lock, the directory cannot be written, or its file
            system is full or has no locks.
    """
    path = private_directory(data_dir) / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise cannot_use(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FailedPrecondition(
            f"data directory {data_dir} is in use by another cluster (process "
            f"{lock_holder(data_dir) or 'unknown'}); stop it with 'skysail down', or use another "
            "--data-dir"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise cannot_lock(data_dir, error) from error
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    except OSError as error:
        os.close(descriptor)
        raise cannot_use(path, error) from error
    return descriptor


def check_idle(data_dir: Path) -> None:
    """Check that no cluster of this machine uses a data directory or left processes behind.

    Raises:
        FailedPrecondition: a cluster uses it, or one was killed and its remains were not removed.
    """
    left_by = lock_holder(data_dir) if (data_dir / LOCK_FILE).exists() else 0
    descriptor = lock(data_dir)
    try:
        mark_as_released(descriptor)
        if left_by:
            os.pwrite(descriptor, str(left_by).encode(), 0)
            raise FailedPrecondition(
                f"data directory {data_dir} has remains of a local cluster that was killed; remove "
                "them with 'skysail down', or use another --data-dir"
            )
    finally:
        os.close(descriptor)


def mark_as_released(descriptor: int) -> None:
    """Record in the lock file that its holder left nothing behind."""
    os.truncate(descriptor, 0)


def lock_holder(data_dir: Path) -> int:
    """Return the process that holds the lock, or that was killed with it; 0 if there is neither."""
    text = (data_dir / LOCK_FILE).read_text()
    return int(text) if text.isdigit() else 0

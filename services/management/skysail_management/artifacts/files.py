"""Files of the artifact store: translated errors and durable renames."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skysail_common.errors import FailedPrecondition, Unavailable

_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a disk that persist until someone repairs it."""


@contextmanager
def translated_errors(verb: str, directory: Path) -> Iterator[None]:
    """Translate errors of the file system inside the block.

    Raises:
        FailedPrecondition: the disk is full or read-only, or the directory is gone.
        Unavailable: no file descriptor is free, or the disk fails.
    """
    try:
        yield
    except ConnectionError:
        # The error belongs to the connection of the uploading caller, not to a file.
        raise
    except FileNotFoundError as error:
        raise FailedPrecondition(
            f"cannot {verb} artifacts: {directory} is gone; restore it and start management again"
        ) from error
    except OSError as error:
        # Retries of the client would upload the content each time, so that lasting errors are not
        # retryable.
        kind = FailedPrecondition if error.errno in _LASTING else Unavailable
        raise kind(
            f"cannot {verb} artifacts in {directory}: {error.strerror or error}; free space or "
            "descriptors on the machine of management, then try again"
        ) from error


def sync_directory(directory: Path) -> None:
    """Write the names in a directory to the disk, so that a power loss does not lose renames."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

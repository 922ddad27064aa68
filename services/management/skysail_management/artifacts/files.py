"""Files of the artifact store: translated errors, durable renames, verified content."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skysail_common.artifacts import file_sha256
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


class VerifiedFiles:
    """The files whose content was compared with its SHA-256, so that each is read once.

    A file is read again if it was replaced, or if its size or its time of modification changed.
    """

    def __init__(self) -> None:
        self._identities: dict[Path, tuple[int, int, int]] = {}

    def note(self, path: Path) -> None:
        """Record that the present content of a file is right."""
        self._identities[path] = _identity(path)

    def is_intact(self, path: Path, sha256: str) -> bool:
        """Return whether a file has this content; the call may read all of it.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        identity = _identity(path)
        if self._identities.get(path) == identity:
            return True
        if file_sha256(path) != sha256:
            return False
        self._identities[path] = identity
        return True

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists, and what is known about it."""
        self._identities.pop(path, None)
        path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns

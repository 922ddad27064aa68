"""Files of the artifact store: opened intact, with translated errors and durable renames."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from skysail_common.artifacts import is_sha256
from skysail_common.blob_files import is_intact
from skysail_common.errors import (
    ArtifactNotFound,
    FailedPrecondition,
    InvalidInput,
    SkysailError,
    Unavailable,
)

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


def path_in(directory: Path, sha256: str) -> Path:
    """Return the path of the file that is named by a SHA-256; the file may be absent.

    Raises:
        InvalidInput: the name is not a SHA-256.
    """
    # The check rejects every path, so that no name leaves the directory.
    if not is_sha256(sha256):
        raise InvalidInput("sha256 must be 64 lower-case hexadecimal digits")
    return directory / sha256


def open_intact(path: Path, kind: str) -> IO[bytes]:
    """Open a file that is named by its SHA-256, after a comparison of its content.

    Args:
        path: The file.
        kind: Word for its content in errors: `blob` or `artifact`.

    Raises:
        ArtifactNotFound: the file does not exist.
        SkysailError: the content is corrupt.
    """
    with translated_errors("read", path.parent):
        try:
            if is_intact(path, path.name):
                return path.open("rb")
        except FileNotFoundError:
            raise ArtifactNotFound(f"{kind} {path.name} was not uploaded") from None
    raise SkysailError(f"{kind} {path.name} is corrupt on disk; deploy the version again")


def sync_directory(directory: Path) -> None:
    """Write the names in a directory to the disk, so that a power loss does not lose renames."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

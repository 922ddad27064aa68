"""Files that hold a blob: checked, sealed and hard-linked, by management and by replicas.

A *seal* spares the second hash of a blob: its modification time is a value that only this boot of the
machine uses. A write changes it, and after a crash of the machine, which may lose written data,
the value is another one.
"""

import contextlib
import errno
import os
import shutil
from pathlib import Path

from skysail_common.artifacts import CHUNK_BYTES, file_sha256

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WITHOUT_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP)
"""Errors of a hard link to another file system, to the file of another user, and of file systems
without hard links."""


def is_intact(file: Path, sha256: str, size_bytes: int | None = None) -> bool:
    """Return whether a file has a content, and seal it if so.

    Args:
        file: The file.
        sha256: SHA-256 of the content.
        size_bytes: Size of the content, if it is known.

    Raises:
        OSError: the file does not exist, or cannot be read.
    """
    status = file.stat()
    if size_bytes not in (None, status.st_size):
        return False
    if status.st_mtime_ns == _seal_ns():
        return True
    if file_sha256(file) != sha256:
        return False
    seal(file, status.st_atime_ns)
    return True


def seal(file: Path, used_ns: int | None = None) -> None:
    """Mark a file as intact and read-only.

    Args:
        file: File whose content was checked.
        used_ns: Time of its last use, in nanoseconds of the epoch; that of the file system if None.
    """
    # The file of another user stays as it is, and is hashed at every use.
    with contextlib.suppress(PermissionError):
        file.chmod(0o444)
        used_ns = file.stat().st_atime_ns if used_ns is None else used_ns
        os.utime(file, ns=(used_ns, _seal_ns()))


def place(source: Path, target: Path) -> None:
    """Create `target` as a hard link to a blob, or as a copy if no link is possible.

    Raises:
        OSError: the source does not exist, the target exists, or the disk is full.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Create `target` as a read-only copy of a blob.

    Raises:
        OSError: the source does not exist, the target exists, or the disk is full.
    """
    with source.open("rb") as original, target.open("xb") as copied:
        shutil.copyfileobj(original, copied, CHUNK_BYTES)
    target.chmod(0o444)


def _seal_ns() -> int:
    """Return the modification time of intact files: some time in 1970 that only this boot uses."""
    try:
        boot_id = _BOOT_ID.read_text()
    except OSError:
        # Only Linux has an id of the boot.
        return 10**9
    return (int(boot_id[:6], 16) + 1) * 10**9

"""Checks of zip archives, the artifacts of earlier clients (format 1)."""

import io
import os
import stat
import zipfile
from pathlib import Path, PurePosixPath

from skysail_common.artifacts import MAX_BLOBS
from skysail_common.errors import InvalidInput

_MAGIC = b"PK"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_MAX_READ_BYTES = 32 * 1024 * 1024
"""Largest directory of an archive, above that of `MAX_BLOBS` files."""


def is_archive(path: Path) -> bool:
    """Return whether an artifact is a zip archive."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


class _BoundedFile(io.FileIO):
    """A file whose reads are bounded, because zipfile reads the directory of an archive at once."""

    def read(self, size: int | None = None, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > _MAX_READ_BYTES:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(size) or b""


def check_archive(path: Path, max_bytes: int) -> None:
    """Check that replicas can unpack an archive safely, without unpacking it.

    Raises:
        InvalidInput: it is no archive, has too many entries, is too large when unpacked, or has an
            entry that is encrypted, repeated, no file, or outside of the directory.
    """
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    # zipfile raises these errors for other files and damaged directories.
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise InvalidInput(f"the file is not an artifact of Skysail: {error}") from error
    if len(entries) > MAX_BLOBS:
        raise InvalidInput(
            f"cannot use the archive: it has {len(entries)} files; at most {MAX_BLOBS} are allowed"
        )
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise InvalidInput(
            f"cannot use the archive: it unpacks to {total} bytes, and {max_bytes} are allowed or "
            "free here"
        )
    names = {entry.filename for entry in entries}
    if len(names) < len(entries):
        raise InvalidInput("cannot use the archive: two of its files have the same path")
    for entry in entries:
        if problem := _problem(entry):
            raise InvalidInput(f"cannot use the archive: {entry.filename[:80]!r} {problem}")


def _problem(entry: zipfile.ZipInfo) -> str:
    path = PurePosixPath(entry.filename)
    mode = entry.external_attr >> 16
    # A damaged directory may have an empty name, for which `is_dir` raises IndexError.
    if not entry.filename or path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
        return "is not a path inside an artifact"
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _METHODS:
        return "is encrypted, or compressed by an unknown method"
    if entry.is_dir() or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is no file"
    return ""

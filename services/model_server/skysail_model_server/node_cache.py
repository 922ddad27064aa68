"""The cache of blobs that the replicas of one node share, in one directory.

    blobs/<sha256>      an intact blob, read-only; replicas that use it have hard links to it
    partial/<sha256>    a blob that a replica fetches, or whose fetch broke off

Only the holder of the lock (flock) of a partial blob writes it. The kernel releases the lock of a
process that dies, so that another replica continues the fetch. Intact blobs need no lock: the
removal of a name never takes a file from the replicas that have links to it.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from skysail_common.artifacts import CHUNK_BYTES, Blob
from skysail_common.blob_files import is_intact, place, seal
from skysail_common.errors import FailedPrecondition, SkysailError, reason_of


class PartialBlob:
    """A blob that this process fetches; a context that ends with the release of its lock."""

    def __init__(self, file: Path, blob: Blob, descriptor: int) -> None:
        """Read the part that an earlier fetch left."""
        self._file = file
        self._blob = blob
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        """Bytes received so far."""
        while chunk := os.read(descriptor, CHUNK_BYTES):
            self._digest.update(chunk)
            self.size_bytes += len(chunk)
        if self.size_bytes > blob.size_bytes:
            self.clear()

    def __enter__(self) -> "PartialBlob":
        """Return the partial blob."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        os.close(self._descriptor)

    def append(self, chunk: bytes) -> None:
        """Write the next bytes.

        Raises:
            SkysailError: they exceed the size of the blob, or the disk is full.
        """
        if self.size_bytes + len(chunk) > self._blob.size_bytes:
            raise SkysailError(
                f"cannot fetch {self._blob.path}: management sends more than its "
                f"{self._blob.size_bytes} bytes; deploy the version again"
            )
        try:
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise cannot_use(self._file.parent, error) from error
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    def clear(self) -> None:
        """Drop all bytes."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes received so far."""
        return self._digest.hexdigest()


@dataclass(frozen=True)
class _Entry:
    used_ns: int
    size_bytes: int
    file: Path
    is_partial: bool


class NodeCache:
    """The cache in one directory; its methods block, and any thread may call them."""

    def __init__(
        self, directory: Path, max_bytes: int, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Create the directory.

        Args:
            directory: Directory of the cache.
            max_bytes: Size beyond which the least recently used blobs go.
            now_ns: Wall clock, in nanoseconds of the epoch.

        Raises:
            FailedPrecondition: the directory cannot be created or written.
        """
        self._blobs, self._partial = directory / "blobs", directory / "partial"
        self._max_bytes = max_bytes
        self._now_ns = now_ns
        try:
            for each in (self._blobs, self._partial):
                each.mkdir(parents=True, exist_ok=True)
                if not os.access(each, os.W_OK | os.X_OK):
                    raise PermissionError(13, "permission denied")
        except OSError as error:
            raise cannot_use(directory, error) from error

    def place(self, blob: Blob, target: Path) -> bool:
        """Place a blob at `target`; return False if the cache lacks it.

        A damaged blob is removed, and counts as lacking.
        """
        file = self._blobs / blob.sha256
        try:
            place(file, target)
        except FileNotFoundError:
            return False
        if is_intact(target, blob.sha256, blob.size_bytes):
            seal(target, self._now_ns())
            return True
        target.unlink()
        file.unlink(missing_ok=True)
        return False

    def lock(self, blob: Blob) -> PartialBlob | None:
        """Return the blob for its fetch by this process.

        Returns:
            None if another process fetches it, or has just completed it.
        """
        file = self._partial / blob.sha256
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            if not _has_locked(descriptor, file):
                return None
            if (self._blobs / blob.sha256).exists():
                file.unlink()
                return None
            partial = PartialBlob(file, blob, descriptor)
            stack.pop_all()
            return partial

    def publish(self, partial: PartialBlob, blob: Blob, target: Path) -> bool:
        """Add a fetched blob and place it at `target`; return False, and drop it, if it is corrupt."""
        if partial.sha256 != blob.sha256:
            partial.clear()
            return False
        file = self._partial / blob.sha256
        seal(file, self._now_ns())
        # The link precedes the move, because other replicas may evict a blob without links.
        place(file, target)
        file.replace(self._blobs / blob.sha256)
        return True

    def partial_bytes(self, blob: Blob) -> int:
        """Return the bytes of a blob that a process has fetched so far."""
        try:
            return (self._partial / blob.sha256).stat().st_size
        except FileNotFoundError:
            return 0

    def make_room(self, wanted: Sequence[Blob]) -> None:
        """Remove the least recently used blobs until those wanted fit beside the others.

        What replicas use or fetch stays, even if the cache then exceeds its size.
        """
        sizes = {blob.sha256: blob.size_bytes for blob in wanted}
        entries = [each for each in self._entries() if each.file.name not in sizes]
        excess = sum(sizes.values()) + sum(each.size_bytes for each in entries) - self._max_bytes
        for entry in sorted(entries, key=lambda each: each.used_ns):
            if excess <= 0:
                return
            if _remove_partial(entry.file) if entry.is_partial else _remove_unused(entry.file):
                excess -= entry.size_bytes

    def _entries(self) -> Iterator[_Entry]:
        for directory in (self._blobs, self._partial):
            is_partial = directory is self._partial
            for file in directory.iterdir():
                # Another replica may have removed or completed the file.
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat()
                    used_ns = status.st_mtime_ns if is_partial else status.st_atime_ns
                    yield _Entry(used_ns, status.st_size, file, is_partial)


def _has_locked(descriptor: int, file: Path) -> bool:
    """Return whether this process now holds the lock of the file with this name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder may have moved or removed the file since it was opened.
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_unused(file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if file.stat().st_nlink > 1:
            return False
        file.unlink()
    return True


def _remove_partial(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not _has_locked(descriptor, file):
            return False
        file.unlink()
        return True
    finally:
        os.close(descriptor)


def cannot_use(directory: Path, error: OSError) -> SkysailError:
    """Return the error for a directory of blobs that cannot be used."""
    return FailedPrecondition(
        f"cannot use the blobs in {directory}: {reason_of(error)}; let user {os.getuid()} write "
        "there, free disk space, or set cache-dir to another directory"
    )

"""Blobs whose upload has begun, each a file that a later upload may continue.

    free ──take──► owned by a writer ──finish──► renamed to a blob
      ▲                   │
      └──────release──────┘   the upload broke

Each upload writes its own file, so that two clients can send the same blob at once. A writer that
received nothing for some time loses its file to an upload that continues it, because the connection
of a vanished client may outlive the client.
"""

import hashlib
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from skysail_common.artifacts import CHUNK_BYTES, is_sha256
from skysail_common.clock import Clock
from skysail_common.errors import Conflict, InvalidInput, Unavailable

_STALLED_S = 2.0
"""Silence of an upload after which another one may continue its file."""

_MAX_AGE_S = 24 * 3600.0
"""Time since the last write, or the start of management, after which a free file is removed."""

_MAX_FREE = 100
"""Most free files; the oldest are removed beyond."""

_MAX_WRITERS = 64
"""Most uploads at once, each of which holds a descriptor and two chunks."""


@dataclass(eq=False)
class _Partial:
    path: Path
    sha256: str
    size_bytes: int
    written_at: float
    writer: "BlobWriter | None" = None


@dataclass(eq=False)
class BlobWriter:
    """A writer of one blob; its methods block, and run on any thread."""

    partial: _Partial
    size_bytes: int
    """Size of the whole blob."""
    clock: Clock
    offset: int = 0
    """Bytes of an earlier upload that this one continues."""
    _file: IO[bytes] | None = None
    _is_closed: bool = False
    _is_final: bool = False
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> None:
        """Open the file at the offset, and compute the digest of the bytes before it.

        Raises:
            Conflict: another upload continues the file, or the file is shorter than the offset.
        """
        with self._lock:
            if self._is_closed:
                raise _stale(self.partial.sha256)
            if not self.offset:
                self._file = self.partial.path.open("xb")
                return
            # A process that was killed after `finish` left the file read-only.
            self.partial.path.chmod(0o600)
            self._file = self.partial.path.open("r+b")
            while missing := self.offset - self._file.tell():
                chunk = self._file.read(min(CHUNK_BYTES, missing))
                if not chunk:
                    raise _stale(self.partial.sha256)
                self._digest.update(chunk)
            self._file.truncate()
            self.partial.size_bytes = self.offset

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            Conflict: another upload continues the file.
            InvalidInput: there are more bytes than announced.
        """
        with self._lock:
            if self._file is None:
                raise _stale(self.partial.sha256)
            if self.partial.size_bytes + len(chunk) > self.size_bytes:
                raise InvalidInput(
                    f"cannot store blob {self.partial.sha256}: it has more than the announced "
                    f"{self.size_bytes} bytes"
                )
            self._digest.update(chunk)
            self._file.write(chunk)
            self.partial.size_bytes += len(chunk)
            self.partial.written_at = self.clock()

    @property
    def is_busy(self) -> bool:
        """True while a thread uses the file, and after the beginning of `finish`."""
        return self._is_final or self._lock.locked()

    @property
    def is_complete(self) -> bool:
        """True if all announced bytes arrived."""
        return self.partial.size_bytes == self.size_bytes

    def finish(self, target: Path) -> None:
        """Write the file to the disk and rename it.

        Raises:
            Conflict: another upload continues the file, or the bytes of an earlier upload differ.
            InvalidInput: the content is shorter than announced, or has another SHA-256.
        """
        self._is_final = True
        with self._lock:
            if self._file is None:
                raise _stale(self.partial.sha256)
            if not self.is_complete:
                raise InvalidInput(
                    f"cannot store blob {self.partial.sha256}: {self.partial.size_bytes} of "
                    f"{self.size_bytes} announced bytes arrived"
                )
            digest = self._digest.hexdigest()
            if digest != self.partial.sha256:
                # The bytes of an earlier upload may be corrupt, such as after a power loss.
                kind = Conflict if self.offset else InvalidInput
                raise kind(
                    f"cannot store blob {self.partial.sha256}: it is corrupt: its SHA-256 is "
                    f"{digest}; send it again from the beginning"
                )
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o444)
            os.fsync(self._file.fileno())
            os.replace(self.partial.path, target)
        self.close()

    def close(self) -> None:
        """Close the file; later writes raise Conflict."""
        with self._lock:
            self._is_closed = True
            file, self._file = self._file, None
            # A full disk has failed a write before, and fails the flush of its rest again.
            with suppress(OSError):
                if file is not None:
                    file.close()


def _stale(sha256: str) -> Conflict:
    return Conflict(
        f"cannot continue the upload of blob {sha256}: the stored bytes changed; ask for the missing "
        "blobs and continue there"
    )


class PartialUploads:
    """The incomplete blobs in one directory."""

    def __init__(self, directory: Path, max_bytes: int, clock: Clock) -> None:
        """Adopt the files of an earlier process; keep at most `max_bytes` in free files."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._clock = clock
        self._partials: list[_Partial] = []
        self._numbers = itertools.count()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime):
            sha256, _, number = path.name.partition("-")
            if is_sha256(sha256) and number.isdigit():
                self._partials.append(_Partial(path, sha256, path.stat().st_size, clock()))
        taken = [int(each.path.name.partition("-")[2]) for each in self._partials]
        self._numbers = itertools.count(max(taken, default=-1) + 1)

    def stored_bytes(self, sha256: str) -> int:
        """Return from which offset an upload can continue; 0 without a file to continue."""
        return max((each.size_bytes for each in self._continuable(sha256)), default=0)

    def _continuable(self, sha256: str) -> Iterator[_Partial]:
        for each in self._partials:
            if each.sha256 == sha256 and (each.writer is None or self._is_stalled(each)):
                yield each

    def _is_stalled(self, partial: _Partial) -> bool:
        is_busy = partial.writer is not None and partial.writer.is_busy
        return not is_busy and self._clock() - partial.written_at >= _STALLED_S

    def take(self, sha256: str, size_bytes: int, offset: int) -> BlobWriter:
        """Return the writer of a blob, to be opened by the caller.

        Raises:
            Conflict: no file has that many bytes.
            Unavailable: too many uploads are under way.
        """
        if sum(each.writer is not None for each in self._partials) >= _MAX_WRITERS:
            raise Unavailable(f"cannot store blob {sha256}: {_MAX_WRITERS} uploads are under way")
        if offset:
            partial = max(self._continuable(sha256), key=lambda each: each.size_bytes, default=None)
            if partial is None or partial.size_bytes < offset:
                raise _stale(sha256)
            if partial.writer is not None:
                partial.writer.close()
        else:
            path = self._directory / f"{sha256}-{next(self._numbers)}"
            partial = _Partial(path, sha256, 0, self._clock())
            self._partials.append(partial)
        partial.written_at = self._clock()
        partial.writer = BlobWriter(partial, size_bytes, self._clock, offset)
        return partial.writer

    def release(self, writer: BlobWriter) -> None:
        """Keep the file of a broken upload for a later one."""
        if writer.partial.writer is writer:
            writer.partial.writer = None
            # A cancelled upload may have renamed the file to its blob.
            if not writer.partial.size_bytes or not writer.partial.path.exists():
                self._remove(writer.partial)

    def discard(self, writer: BlobWriter) -> None:
        """Remove the file of an upload."""
        if writer.partial.writer is writer:
            self._remove(writer.partial)

    def complete(self, writer: BlobWriter) -> None:
        """Forget a finished upload, and remove the free files of its blob."""
        self._partials.remove(writer.partial)
        for each in list(self._partials):
            if each.sha256 == writer.partial.sha256 and each.writer is None:
                self._remove(each)

    def _remove(self, partial: _Partial) -> None:
        self._partials.remove(partial)
        partial.path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove free files that are too old, too many or too large together."""
        free = sorted(
            (each for each in self._partials if each.writer is None),
            key=lambda each: each.written_at,
            reverse=True,
        )
        total = 0
        for index, each in enumerate(free):
            total += each.size_bytes
            is_old = self._clock() - each.written_at > _MAX_AGE_S
            if is_old or index >= _MAX_FREE or total > self._max_bytes:
                self._remove(each)

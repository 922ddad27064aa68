"""The store of blobs: the files of all artifacts, each stored once and named by its SHA-256."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from skysail_common.artifacts import MAX_BLOBS
from skysail_common.blob_files import is_intact, seal
from skysail_common.clock import Clock
from skysail_common.errors import (
    ArtifactNotFound,
    Conflict,
    FailedPrecondition,
    InvalidInput,
    Unavailable,
)
from skysail_common.process.threads import in_thread
from skysail_management.artifacts.files import (
    open_intact,
    path_in,
    sync_directory,
    translated_errors,
)
from skysail_management.artifacts.partial_uploads import BlobWriter, PartialUploads
from skysail_management.artifacts.reservations import Reservations

_RESERVATION_S = 2 * 3600.0
"""Time for which a blob waits for its artifact, longer than the upload of the other blobs."""

_MAX_FINISHING = 8
"""Most blobs of an upload that are written to the disk side by side while the next one arrives. A
file system needs about the same time for many small files at once as for one."""


@dataclass(frozen=True)
class BlobId:
    """A blob by the SHA-256 of its content, with its size in bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class BlobStart:
    """The beginning of a blob in an upload, from an offset on."""

    blob: BlobId
    offset: int


class BlobStore:
    """The blobs of a cluster.

    blobs/<sha256>      complete and read-only; replicas on this machine link to them
    partial/<sha256>-…  see `PartialUploads`
    """

    def __init__(self, directory: Path, max_bytes: int, clock: Clock) -> None:
        """Create the directories, for artifacts of at most `max_bytes` each."""
        self._directory = directory / "blobs"
        self._max_bytes = max_bytes
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._partials = PartialUploads(directory / "partial", max_bytes, clock)
        self._reservations = Reservations(_RESERVATION_S, clock)

    def path(self, sha256: str) -> Path:
        """Return the path of a blob, which may be absent.

        Raises:
            InvalidInput: the name is not a SHA-256.
        """
        return path_in(self._directory, sha256)

    def reserve_unnamed(self, named: Collection[str]) -> None:
        """Reserve the blobs that no artifact names: a client may upload their artifact now."""
        for path in self._directory.iterdir():
            if path.name not in named:
                self._reservations.reserve(path.name)

    async def find(self, blobs: Sequence[BlobId]) -> Mapping[str, int]:
        """Return the missing blobs of an artifact, each with the bytes that are stored of it.

        The others are reserved for two hours. A corrupt blob is removed, so that the caller uploads
        it again.

        Raises:
            InvalidInput: a blob is invalid, or the artifact is too large.
            FailedPrecondition: the disk has too little space.
            Unavailable: the disk fails.
        """
        sizes = self.check_sizes(blobs)
        # The reservation comes first, because a sweep may run during the comparison.
        for name in sizes:
            if self.path(name).exists():
                self._reservations.reserve(name)
        with translated_errors("read", self._directory):
            absent = await in_thread(self._absent, sizes)
            missing = {name: self._partials.stored_bytes(name) for name in absent}
            needed = sum(sizes[name] - stored for name, stored in missing.items())
            free = shutil.disk_usage(self._directory).free
        if needed > free:
            raise FailedPrecondition(
                f"cannot store the artifact: {_text(needed)} are missing, and {self._directory} has "
                f"{_text(free)} free; free space on the machine of management, then try again"
            )
        return missing

    def check_sizes(self, blobs: Sequence[BlobId]) -> dict[str, int]:
        """Return the sizes of the blobs of an artifact by SHA-256.

        Raises:
            InvalidInput: a blob is invalid, or the artifact is too large.
        """
        if len(blobs) > MAX_BLOBS:
            raise InvalidInput(
                f"cannot store the artifact: it has {len(blobs)} files; at most {MAX_BLOBS} are allowed"
            )
        sizes = {blob.sha256: blob.size_bytes for blob in blobs}
        for blob in blobs:
            self.path(blob.sha256)
            if sizes[blob.sha256] != blob.size_bytes:
                raise InvalidInput(f"cannot store blob {blob.sha256}: it is listed with two sizes")
        self.check_total(sum(sizes.values()))
        return sizes

    def check_total(self, num_bytes: int) -> None:
        """Check the size of an artifact.

        Raises:
            InvalidInput: it is too large.
        """
        if num_bytes > self._max_bytes:
            raise InvalidInput(
                f"cannot store the artifact: its files have {_text(num_bytes)}; at most "
                f"{_text(self._max_bytes)} are allowed (setting max-artifact-bytes of management)"
            )

    def _absent(self, sizes: Mapping[str, int]) -> list[str]:
        absent = []
        for name, size in sizes.items():
            path = self.path(name)
            try:
                is_stored = is_intact(path, name)
                stored = path.stat().st_size
            except FileNotFoundError:
                is_stored = False
            if not is_stored:
                path.unlink(missing_ok=True)
                absent.append(name)
            elif stored != size:
                raise InvalidInput(
                    f"cannot store the artifact: blob {name} has {stored} bytes, not {size}"
                )
        return absent

    async def add(self, parts: AsyncIterator[BlobStart | bytes]) -> int:
        """Store blobs, each a start and its bytes, and return the number of bytes received.

        An upload that breaks leaves the bytes of its last blob, so that another one continues there.

        Raises:
            InvalidInput: a content has another SHA-256 or size than announced, or is too large.
            Conflict: the stored bytes of a blob changed; `find` returns the offset.
            FailedPrecondition: the disk is full, or the directory is gone.
            Unavailable: too many uploads are under way, no file descriptor is free, or the disk fails.
        """
        upload: _Upload | None = None
        finishing: set[asyncio.Task[None]] = set()
        received = 0
        with translated_errors("store", self._directory):
            try:
                async for part in parts:
                    if isinstance(part, BlobStart):
                        if upload is not None:
                            await upload.flush()
                            finishing.add(asyncio.ensure_future(self._finish(upload)))
                            upload = None
                        await _all_but(_MAX_FINISHING, finishing)
                        upload = await self._begin(part)
                    elif upload is None:
                        raise InvalidInput("cannot store blobs: the first message must be a header")
                    else:
                        received += len(part)
                        self.check_total(received)
                        await upload.write(part)
                if upload is not None:
                    await upload.flush()
                    if not upload.writer.is_complete:
                        await _all_but(0, finishing)
                        # A lost connection looks like the end of the stream.
                        raise Unavailable(
                            "cannot store blobs: the stream ended within one; continue it"
                        )
                    finishing.add(asyncio.ensure_future(self._finish(upload)))
                    upload = None
                await _all_but(0, finishing)
                await in_thread(sync_directory, self._directory)
            except BaseException as error:
                await self._end(upload, error)
                raise
            finally:
                await asyncio.gather(*finishing, return_exceptions=True)
        return received

    async def _begin(self, start: BlobStart) -> "_Upload":
        sha256, size = start.blob.sha256, start.blob.size_bytes
        self.path(sha256)
        self.check_total(size)
        upload = _Upload(self._partials.take(sha256, size, start.offset))
        try:
            await in_thread(upload.writer.open)
        except BaseException:
            await upload.close()
            self._partials.discard(upload.writer)
            raise
        return upload

    async def _finish(self, upload: "_Upload") -> None:
        sha256 = upload.writer.partial.sha256
        path = self.path(sha256)
        # The reservation comes first, because a sweep may run before the thread returns.
        self._reservations.reserve(sha256)
        try:
            await in_thread(upload.writer.finish, path)
        except BaseException as error:
            await self._end(upload, error)
            raise
        self._partials.complete(upload.writer)
        seal(path)

    async def _end(self, upload: "_Upload | None", error: BaseException) -> None:
        """Keep what arrived of an upload that failed, unless it is useless."""
        if upload is None:
            return
        await upload.close()
        is_useless = isinstance(error, (OSError, InvalidInput, Conflict))
        if isinstance(error, ConnectionError) or not is_useless:
            self._partials.release(upload.writer)
        else:
            self._partials.discard(upload.writer)

    async def check(self, blobs: Sequence[BlobId]) -> None:
        """Check that all blobs of an artifact are stored.

        Raises:
            ArtifactNotFound: a blob is missing.
            InvalidInput: a blob is invalid or has another size, or the artifact is too large.
        """
        sizes = self.check_sizes(blobs)
        with translated_errors("read", self._directory):
            absent = await in_thread(self._absent, sizes)
        if absent:
            raise ArtifactNotFound(
                f"cannot store the artifact: {len(absent)} blobs are missing, such as {absent[0]}; "
                "upload them first"
            )

    def pinned(self, names: Collection[str]) -> AbstractContextManager[None]:
        """Return a context inside which a sweep spares blobs."""
        return self._reservations.pinned(names)

    def consume(self, names: Collection[str]) -> None:
        """End a reservation of each blob, because an artifact names it now."""
        for name in names:
            self._reservations.consume(name)

    def open(self, sha256: str) -> IO[bytes]:
        """Open a blob for reading; the first call compares its content.

        Raises:
            ArtifactNotFound: the store does not have it.
            SkysailError: the content is corrupt.
        """
        return open_intact(self.path(sha256), "blob")

    def sweep(self, named: Collection[str]) -> None:
        """Remove the blobs that no artifact names and no caller reserved, and old partial uploads."""
        spared = {*named, *self._reservations.spared()}
        for path in self._directory.iterdir():
            if path.name not in spared:
                path.unlink(missing_ok=True)
        self._partials.sweep()


class _Upload:
    """An upload that receives the next chunk while a thread writes the one before."""

    def __init__(self, writer: BlobWriter) -> None:
        self.writer = writer
        self._pending: asyncio.Future[None] | None = None

    async def write(self, chunk: bytes) -> None:
        await self.flush()
        loop = asyncio.get_running_loop()
        self._pending = loop.run_in_executor(None, self.writer.write, chunk)

    async def flush(self) -> None:
        """Return once all chunks are written."""
        if self._pending is not None:
            # A cancelled caller must not cancel the write, which `close` awaits.
            await asyncio.shield(self._pending)
            self._pending = None

    async def close(self) -> None:
        """Close the file after the last write; an error of the write was raised already."""
        if self._pending is not None:
            await asyncio.wait({self._pending})
            self._pending.exception()
        await in_thread(self.writer.close)


async def _all_but(num_pending: int, tasks: set[asyncio.Task[None]]) -> None:
    """Wait until at most some tasks are pending, and drop those that ended.

    Raises:
        Exception: the error of a task.
    """
    while len(tasks) > num_pending:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks -= done
        # The list retrieves every exception, because asyncio logs those that nobody retrieves.
        for error in [each.exception() for each in done]:
            if error is not None:
                raise error


def _text(num_bytes: int) -> str:
    return f"{num_bytes} bytes" if num_bytes < 2**20 else f"{num_bytes / 2**30:.2f} GiB"

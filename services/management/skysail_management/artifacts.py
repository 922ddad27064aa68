"""The store of artifacts: one file for each, named by the SHA-256 of its content."""

import asyncio
import errno
import hashlib
import logging
import os
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from skysail_common.artifacts import (
    Manifest,
    file_sha256,
    is_sha256,
    read_manifest,
)
from skysail_common.clock import Clock
from skysail_common.errors import (
    ArtifactNotFound,
    FailedPrecondition,
    InvalidInput,
    SkysailError,
    Unavailable,
)
from skysail_common.process.threads import in_thread

log = logging.getLogger(__name__)

ARTIFACTS = "artifacts"
"""Name of the artifact directory in a data directory."""

_RESERVATION_S = 600.0
"""Time for which an uploaded artifact is reserved, until a deployment pins it."""

_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a disk that persist until someone repairs it."""

_MAX_RESERVATIONS = 1000
"""Most reservations of one artifact; the oldest are dropped beyond."""


def count_artifacts(directory: Path) -> int:
    """Return the number of artifacts in a directory; 0 if it does not exist."""
    if not directory.is_dir():
        return 0
    return sum(is_sha256(path.name) for path in directory.iterdir())


class ArtifactStore:
    """The artifacts of a cluster, in one directory."""

    def __init__(self, directory: Path, max_bytes: int, clock: Clock) -> None:
        """Create the directory, for artifacts of at most `max_bytes` each."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._clock = clock
        self._reservations: dict[str, deque[float]] = {}
        self._pins: dict[str, int] = {}
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in directory.glob("upload-*"):
            leftover.unlink()

    def _path(self, sha256: str) -> Path:
        # The check rejects every path, so that no name leaves the directory.
        if not is_sha256(sha256):
            raise InvalidInput("sha256 must be 64 lower-case hexadecimal digits")
        return self._directory / sha256

    async def find(self, sha256: str) -> bool:
        """Return whether an artifact exists; if so, reserve it for ten minutes.

        A corrupt artifact is removed, so that the caller uploads it again.

        Raises:
            Unavailable: the disk fails.
        """
        path = self._path(sha256)
        with self._translate_errors("read"):
            if not path.is_file():
                return False
            if await asyncio.to_thread(file_sha256, path) != sha256:
                path.unlink(missing_ok=True)
                return False
        self._reserve(sha256)
        return True

    def _reserve(self, sha256: str) -> None:
        reservations = self._reservations.setdefault(sha256, deque(maxlen=_MAX_RESERVATIONS))
        reservations.append(self._clock() + _RESERVATION_S)

    @contextmanager
    def pin(self, sha256: str) -> Iterator[None]:
        """Keep an artifact inside the `with` block, even if another caller unpins it.

        The block consumes one reservation, so that an artifact that two callers found is kept until
        both deployed it. After the block, the artifact stays while a version uses it or other
        reservations exist.
        """
        self._pins[sha256] = self._pins.get(sha256, 0) + 1
        try:
            yield
        except Unavailable:
            # The outcome of the deployment is unknown; the reservation expires by itself.
            raise
        except SkysailError:
            self._consume_reservation(sha256)
            raise
        else:
            self._consume_reservation(sha256)
        finally:
            self._pins[sha256] -= 1
            if not self._pins[sha256]:
                del self._pins[sha256]

    def _consume_reservation(self, sha256: str) -> None:
        reservations = self._reservations.get(sha256)
        if reservations:
            reservations.popleft()
            if not reservations:
                del self._reservations[sha256]

    def size_bytes(self, sha256: str) -> int:
        """Return the size of an artifact.

        Raises:
            ArtifactNotFound: the store does not have it.
        """
        path = self._path(sha256)
        with self._translate_errors("read"):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                raise ArtifactNotFound(f"artifact {sha256} was not uploaded") from None

    def manifest(self, sha256: str) -> Manifest:
        """Return the manifest of an artifact.

        Raises:
            ArtifactNotFound: the store does not have it.
            InvalidInput: the file is no artifact of Skysail.
        """
        self.size_bytes(sha256)
        with self._translate_errors("read"):
            return read_manifest(self._path(sha256))

    async def add(self, sha256: str, chunks: AsyncIterator[bytes]) -> int:
        """Store an artifact and return its size; equal artifacts are stored once.

        Raises:
            InvalidInput: the content has another SHA-256, is too large, or is no artifact.
            FailedPrecondition: the disk is full, or the directory is gone.
            Unavailable: no file descriptor is free, or the disk fails.
        """
        path = self._path(sha256)
        with self._translate_errors("store"):
            descriptor, name = tempfile.mkstemp(prefix="upload-", dir=self._directory)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    size, digest = await self._receive(file, chunks)
                if digest != sha256:
                    raise InvalidInput(
                        f"the artifact is corrupt: its SHA-256 is {digest}, not {sha256} as announced"
                    )
                read_manifest(temporary)
                await in_thread(self._publish, temporary, path)
                self._reserve(sha256)
            finally:
                await in_thread(temporary.unlink, missing_ok=True)
        return size

    def _publish(self, temporary: Path, path: Path) -> None:
        """Rename a file durably, so that a power loss loses neither the name nor the content."""
        os.replace(temporary, path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _translate_errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except ConnectionError:
            # The error belongs to the connection of the uploading caller, not to a file.
            raise
        except FileNotFoundError as error:
            raise FailedPrecondition(
                f"cannot {verb} artifacts: {self._directory} is gone; restore it and start "
                "management again"
            ) from error
        except OSError as error:
            # Retries of the client would upload the whole artifact each time, so that lasting
            # errors are not retryable.
            kind = FailedPrecondition if error.errno in _LASTING else Unavailable
            raise kind(
                f"cannot {verb} artifacts in {self._directory}: {error.strerror or error}; free "
                "space or descriptors on the machine of management, then try again"
            ) from error

    async def _receive(self, file: IO[bytes], chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        digest = hashlib.sha256()
        size = 0

        def write(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        def sync() -> None:
            file.flush()
            os.fsync(file.fileno())

        async for chunk in chunks:
            size += len(chunk)
            if size > self._max_bytes:
                raise InvalidInput(
                    f"the artifact is larger than {self._max_bytes} bytes "
                    "(setting max-artifact-bytes of management)"
                )
            await in_thread(write, chunk)
        await in_thread(sync)
        return size, digest.hexdigest()

    def open(self, sha256: str) -> IO[bytes]:
        """Open an artifact for reading.

        Raises:
            ArtifactNotFound: the store does not have it.
            SkysailError: the content is corrupt.
        """
        self.size_bytes(sha256)
        with self._translate_errors("read"):
            if file_sha256(self._path(sha256)) != sha256:
                raise SkysailError(
                    f"artifact {sha256} is corrupt on disk; deploy the version again"
                )
            return self._path(sha256).open("rb")

    def sweep(self, kept: Collection[str]) -> None:
        """Remove artifacts that no version uses and no caller reserved or pinned."""
        now = self._clock()
        for name, reservations in list(self._reservations.items()):
            while reservations and reservations[0] <= now:
                reservations.popleft()
            if not reservations:
                del self._reservations[name]
        spared = {*kept, *self._reservations, *self._pins}
        try:
            for path in self._directory.iterdir():
                if is_sha256(path.name) and path.name not in spared:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("artifacts not swept", extra={"error": str(error)})

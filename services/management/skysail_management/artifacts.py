"""Where artifacts are kept: one file each, named by the SHA-256 of its content."""

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
"""Name of their directory in a data directory."""

_PROMISE_S = 600.0
"""Time from an upload to the deployment of what was uploaded."""

_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a disk that stay until somebody mends it."""

_MAX_PROMISES = 1000
"""Promises of one artifact; of more, the oldest are forgotten."""


def count_artifacts(directory: Path) -> int:
    """Return how many artifacts a directory holds; 0 if it does not exist."""
    if not directory.is_dir():
        return 0
    return sum(is_sha256(path.name) for path in directory.iterdir())


class ArtifactStore:
    """The artifacts of a cluster, in one directory."""

    def __init__(self, directory: Path, max_bytes: int, clock: Clock) -> None:
        """Keeps artifacts of at most `max_bytes` each in `directory`, which it makes."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._clock = clock
        self._promised: dict[str, deque[float]] = {}
        self._taken: dict[str, int] = {}
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in directory.glob("upload-*"):
            leftover.unlink()

    def _path(self, sha256: str) -> Path:
        # The name is checked, never a path: nothing outside the directory can be named.
        if not is_sha256(sha256):
            raise InvalidInput("sha256 must be 64 lower-case hexadecimal digits")
        return self._directory / sha256

    async def find(self, sha256: str) -> bool:
        """Return whether an artifact exists; if so, keep it for at least ten minutes.

        One that is no longer what it was is removed, so that it is uploaded again.

        Raises:
            Unavailable: the disk does not answer as it should.
        """
        path = self._path(sha256)
        with self._typed("read"):
            if not path.is_file():
                return False
            if await asyncio.to_thread(file_sha256, path) != sha256:
                path.unlink(missing_ok=True)
                return False
        self._promise(sha256)
        return True

    def _promise(self, sha256: str) -> None:
        promises = self._promised.setdefault(sha256, deque(maxlen=_MAX_PROMISES))
        promises.append(self._clock() + _PROMISE_S)

    @contextmanager
    def pin(self, sha256: str) -> Iterator[None]:
        """Keep an artifact inside the `with` block, even if another caller is done with it.

        The block fulfils one promise: an artifact that two callers found is kept until both have
        deployed it. After the block it stays while a version has it or others are promised it.
        """
        self._taken[sha256] = self._taken.get(sha256, 0) + 1
        try:
            yield
        except Unavailable:
            # Whether it was deployed is not known; the promise ends by itself.
            raise
        except SkysailError:
            self._fulfil(sha256)
            raise
        else:
            self._fulfil(sha256)
        finally:
            self._taken[sha256] -= 1
            if not self._taken[sha256]:
                del self._taken[sha256]

    def _fulfil(self, sha256: str) -> None:
        promises = self._promised.get(sha256)
        if promises:
            promises.popleft()
            if not promises:
                del self._promised[sha256]

    def size_bytes(self, sha256: str) -> int:
        """Return the size of an artifact.

        Raises:
            ArtifactNotFound: it is not kept.
        """
        path = self._path(sha256)
        with self._typed("read"):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                raise ArtifactNotFound(f"artifact {sha256} was not uploaded") from None

    def manifest(self, sha256: str) -> Manifest:
        """Return the manifest of an artifact.

        Raises:
            ArtifactNotFound: it is not kept.
            InvalidInput: it is no artifact of Skysail.
        """
        self.size_bytes(sha256)
        with self._typed("read"):
            return read_manifest(self._path(sha256))

    async def add(self, sha256: str, chunks: AsyncIterator[bytes]) -> int:
        """Keep an artifact and return its size; a second one of the same content is one.

        Raises:
            InvalidInput: the content has another SHA-256, is too large, or is no artifact.
            FailedPrecondition: there is no space for it, or the directory is gone.
            Unavailable: there is no descriptor for it, or the disk fails.
        """
        path = self._path(sha256)
        with self._typed("keep"):
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
                self._promise(sha256)
            finally:
                await in_thread(temporary.unlink, missing_ok=True)
        return size

    def _publish(self, temporary: Path, path: Path) -> None:
        """Give a file its name, so that a loss of power takes neither."""
        os.replace(temporary, path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _typed(self, verb: str) -> Iterator[None]:
        try:
            yield
        except ConnectionError:
            # That of the caller who uploads: files have none.
            raise
        except FileNotFoundError as error:
            raise FailedPrecondition(
                f"cannot {verb} artifacts: {self._directory} is gone; restore it and start "
                "management again"
            ) from error
        except OSError as error:
            # A client that repeats the call by itself would send the whole artifact each time.
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
        """Return an artifact, open for reading.

        Raises:
            ArtifactNotFound: it is not kept.
            SkysailError: its content is no longer what it was.
        """
        self.size_bytes(sha256)
        with self._typed("read"):
            if file_sha256(self._path(sha256)) != sha256:
                raise SkysailError(
                    f"artifact {sha256} is corrupt on disk; deploy the version again"
                )
            return self._path(sha256).open("rb")

    def sweep(self, kept: Collection[str]) -> None:
        """Remove artifacts that no version has and nobody is about to deploy."""
        now = self._clock()
        for name, promises in list(self._promised.items()):
            while promises and promises[0] <= now:
                promises.popleft()
            if not promises:
                del self._promised[name]
        spared = {*kept, *self._promised, *self._taken}
        try:
            for path in self._directory.iterdir():
                if is_sha256(path.name) and path.name not in spared:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("artifacts not swept", extra={"error": str(error)})

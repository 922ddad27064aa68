"""Where artifacts are kept: one file each, named by the SHA-256 of its content."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import IO

from skysail_common.artifacts import (
    Manifest,
    file_sha256,
    is_sha256,
    read_manifest,
)
from skysail_common.clock import Clock
from skysail_common.errors import ArtifactNotFound, InvalidInput, SkysailError
from skysail_common.threads import in_thread

_PROMISE_S = 600.0
"""Time from an upload to the deployment of what was uploaded."""


class ArtifactStore:
    """Artifacts in a directory of their own."""

    def __init__(self, directory: Path, max_bytes: int, clock: Clock) -> None:
        """Keeps artifacts of at most `max_bytes` each in `directory`, which it makes."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._clock = clock
        self._promised: dict[str, float] = {}
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in directory.glob("upload-*"):
            leftover.unlink()

    def _path(self, sha256: str) -> Path:
        # The name is checked, never a path: nothing outside the directory can be named.
        if not is_sha256(sha256):
            raise InvalidInput("sha256 must be 64 lower-case hexadecimal digits")
        return self._directory / sha256

    async def find(self, sha256: str) -> bool:
        """Tell whether an artifact is kept; if so it stays for at least ten minutes.

        One that is no longer what it was is removed, so that it is uploaded again.
        """
        path = self._path(sha256)
        if not path.is_file():
            return False
        if await asyncio.to_thread(file_sha256, path) != sha256:
            path.unlink(missing_ok=True)
            return False
        self._promise(sha256)
        return True

    def _promise(self, sha256: str) -> None:
        self._promised[sha256] = self._clock() + _PROMISE_S

    def release(self, sha256: str) -> None:
        """Say that nobody is about to deploy an artifact: it stays while a version has it."""
        self._promised.pop(sha256, None)

    def size_bytes(self, sha256: str) -> int:
        """Return the size of an artifact.

        Raises:
            ArtifactNotFound: it is not kept.
        """
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            raise ArtifactNotFound(f"artifact {sha256} was not uploaded") from None

    def manifest(self, sha256: str) -> Manifest:
        """Return the manifest of an artifact.

        Raises:
            ArtifactNotFound: it is not kept.
            InvalidInput: it is no artifact of Skysail.
        """
        self.size_bytes(sha256)
        return read_manifest(self._path(sha256))

    async def add(self, sha256: str, chunks: AsyncIterator[bytes]) -> int:
        """Keep an artifact and return its size; a second one of the same content is one.

        Raises:
            InvalidInput: the content has another SHA-256, is too large, or is no artifact.
        """
        path = self._path(sha256)
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
            os.replace(temporary, path)
            self._promise(sha256)
        finally:
            await in_thread(temporary.unlink, missing_ok=True)
        return size

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
        if file_sha256(self._path(sha256)) != sha256:
            raise SkysailError(f"artifact {sha256} is corrupt on disk; deploy the version again")
        return self._path(sha256).open("rb")

    def sweep(self, kept: Collection[str]) -> None:
        """Remove artifacts that no version has and nobody is about to deploy."""
        now = self._clock()
        self._promised = {name: until for name, until in self._promised.items() if until > now}
        for path in self._directory.iterdir():
            if is_sha256(path.name) and path.name not in kept and path.name not in self._promised:
                path.unlink(missing_ok=True)

"""The store of artifacts: one file for each, named by the SHA-256 of its content.

<sha256>     a manifest (format 2), or a zip archive (format 1)
blobs/       the files that manifests name, see `BlobStore`
partial/     blobs whose upload is incomplete
"""

import hashlib
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from skysail_common.archives import check_archive, is_archive
from skysail_common.artifacts import (
    MAX_MANIFEST_BYTES,
    MODEL_FILE,
    PYTHON_LOADER,
    Manifest,
    is_sha256,
    parse_manifest,
    read_manifest,
)
from skysail_common.blob_files import is_intact, seal
from skysail_common.clock import Clock
from skysail_common.errors import (
    ArtifactNotFound,
    InvalidInput,
    SkysailError,
    Unavailable,
)
from skysail_common.process.threads import in_thread
from skysail_management.artifacts.blobs import BlobId, BlobStore
from skysail_management.artifacts.files import (
    open_intact,
    path_in,
    sync_directory,
    translated_errors,
)
from skysail_management.artifacts.reservations import Reservations

log = logging.getLogger(__name__)

ARTIFACTS = "artifacts"
"""Name of the artifact directory in a data directory."""

_RESERVATION_S = 600.0
"""Time for which an uploaded artifact is reserved, until a deployment pins it."""

_MAX_CACHED_MANIFESTS = 16


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
        self._reservations = Reservations(_RESERVATION_S, clock)
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._named: dict[str, frozenset[str]] = {}
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in directory.glob("upload-*"):
            leftover.unlink()
        self.blobs = BlobStore(directory, max_bytes, clock)
        """The files that manifests name."""
        self.blobs.reserve_unnamed(self._named_blobs())

    def _path(self, sha256: str) -> Path:
        return path_in(self._directory, sha256)

    async def find(self, sha256: str) -> bool:
        """Return whether an artifact exists with all its blobs; if so, reserve it for ten minutes.

        A corrupt artifact is removed, so that the caller uploads it again.

        Raises:
            Unavailable: the disk fails.
        """
        path = self._path(sha256)
        # A sweep may run during the comparisons.
        with translated_errors("read", self._directory), self._reservations.pinned([sha256]):
            if not path.is_file():
                return False
            if not await in_thread(is_intact, path, sha256):
                self._remove(path)
                return False
            try:
                await self.blobs.check(_blobs(self.manifest(sha256)))
            except ArtifactNotFound:
                return False
            self._reservations.reserve(sha256)
        return True

    @contextmanager
    def pin(self, sha256: str) -> Iterator[None]:
        """Keep an artifact inside the `with` block, even if another caller unpins it.

        The block consumes one reservation, so that an artifact that two callers found is kept until
        both deployed it. After the block, the artifact stays while a version uses it or other
        reservations exist.
        """
        with self._reservations.pinned([sha256]):
            try:
                yield
            except Unavailable:
                # The outcome of the deployment is unknown; the reservation expires by itself.
                raise
            except SkysailError:
                self._reservations.consume(sha256)
                raise
            else:
                self._reservations.consume(sha256)

    def size_bytes(self, sha256: str) -> int:
        """Return the size of an artifact: of its archive, or of its blobs together.

        Raises:
            ArtifactNotFound: the store does not have it.
            InvalidInput: the file is no artifact of Skysail.
        """
        manifest = self.manifest(sha256)
        if manifest.blobs:
            return sum({blob.sha256: blob.size_bytes for blob in manifest.blobs}.values())
        with translated_errors("read", self._directory):
            return self._path(sha256).stat().st_size

    def manifest(self, sha256: str) -> Manifest:
        """Return the manifest of an artifact.

        Raises:
            ArtifactNotFound: the store does not have it.
            InvalidInput: the file is no artifact of Skysail.
        """
        path = self._path(sha256)
        with translated_errors("read", self._directory):
            if not path.is_file():
                raise ArtifactNotFound(f"artifact {sha256} was not uploaded")
            if sha256 in self._manifests:
                self._manifests.move_to_end(sha256)
            else:
                self._cache(sha256, _read(path))
            return self._manifests[sha256]

    def _cache(self, sha256: str, manifest: Manifest) -> None:
        self._manifests[sha256] = manifest
        self._named[sha256] = frozenset(blob.sha256 for blob in manifest.blobs)
        if len(self._manifests) > _MAX_CACHED_MANIFESTS:
            self._manifests.popitem(last=False)

    async def add(self, sha256: str, chunks: AsyncIterator[bytes]) -> int:
        """Store an artifact and return its size; equal artifacts are stored once.

        Raises:
            InvalidInput: the content has another SHA-256, is too large, or is no artifact.
            ArtifactNotFound: a blob of the manifest is missing.
            FailedPrecondition: the disk is full, or the directory is gone.
            Unavailable: no file descriptor is free, or the disk fails.
        """
        path = self._path(sha256)
        with translated_errors("store", self._directory):
            descriptor, name = tempfile.mkstemp(prefix="upload-", dir=self._directory)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    size, digest = await self._receive(file, chunks)
                if digest != sha256:
                    raise InvalidInput(
                        f"the artifact is corrupt: its SHA-256 is {digest}, not {sha256} as announced"
                    )
                if await in_thread(is_archive, temporary):
                    await in_thread(check_archive, temporary, self._max_bytes)
                manifest = await in_thread(_read, temporary)
                blobs = self.blobs.check_sizes(_blobs(manifest))
                with self.blobs.pinned(blobs):
                    await self.blobs.check(_blobs(manifest))
                    self._reservations.reserve(sha256)
                    await in_thread(self._publish, temporary, path)
                self._cache(sha256, manifest)
                self.blobs.consume(blobs)
            finally:
                await in_thread(temporary.unlink, missing_ok=True)
        return sum(blobs.values()) or size

    def _publish(self, temporary: Path, path: Path) -> None:
        os.replace(temporary, path)
        seal(path)
        sync_directory(self._directory)

    async def _receive(self, file: IO[bytes], chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        digest = hashlib.sha256()
        size = 0
        head = b""

        def write(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        def sync() -> None:
            file.flush()
            os.fsync(file.fileno())

        async for chunk in chunks:
            head = head or chunk[:4]
            size += len(chunk)
            self._check_size(size, is_archive=head.startswith(b"PK"))
            await in_thread(write, chunk)
        await in_thread(sync)
        return size, digest.hexdigest()

    def _check_size(self, size: int, *, is_archive: bool) -> None:
        if is_archive:
            self.blobs.check_total(size)
        elif size > MAX_MANIFEST_BYTES:
            raise InvalidInput(
                f"cannot store the artifact: its manifest is larger than {MAX_MANIFEST_BYTES} bytes"
            )

    def open(self, sha256: str) -> IO[bytes]:
        """Open the manifest or the archive of an artifact for reading.

        Raises:
            ArtifactNotFound: the store does not have it.
            SkysailError: the content is corrupt.
        """
        return open_intact(self._path(sha256), "artifact")

    def open_blob(self, sha256: str, blob: str) -> IO[bytes]:
        """Open a blob of an artifact for reading.

        Raises:
            ArtifactNotFound: the store does not have it, or it belongs to other artifacts only.
            SkysailError: the content is corrupt.
        """
        with translated_errors("read", self._directory):
            is_named = blob in self._blobs_of(sha256)
        if not is_named:
            raise ArtifactNotFound(f"artifact {sha256} has no blob {blob[:64]!r}")
        return self.blobs.open(blob)

    def _blobs_of(self, sha256: str) -> frozenset[str]:
        """Return the blobs that an artifact names; callers may use any thread."""
        if sha256 not in self._named:
            manifest = _read(self._path(sha256))
            self._named[sha256] = frozenset(blob.sha256 for blob in manifest.blobs)
        return self._named[sha256]

    def _named_blobs(self) -> set[str]:
        """Return the blobs that the stored artifacts name."""
        named: set[str] = set()
        for path in self._directory.iterdir():
            if is_sha256(path.name):
                try:
                    named |= self._blobs_of(path.name)
                except InvalidInput as error:
                    log.warning(
                        "artifact unreadable", extra={"artifact": path.name, "error": error.message}
                    )
        return named

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._named.pop(path.name, None)
        self._manifests.pop(path.name, None)

    def sweep(self, kept: Collection[str]) -> None:
        """Remove artifacts that no version uses and no caller reserved or pinned, and their blobs."""
        spared = {*kept, *self._reservations.spared()}
        try:
            for path in self._directory.iterdir():
                if is_sha256(path.name) and path.name not in spared:
                    self._remove(path)
            self.blobs.sweep(self._named_blobs())
        except OSError as error:
            log.warning("artifacts not swept", extra={"error": str(error)})


def _read(path: Path) -> Manifest:
    if is_archive(path):
        # An archive contains its files, whatever its manifest lists.
        return read_manifest(path).model_copy(update={"blobs": ()})
    manifest = parse_manifest(path.read_bytes())
    if manifest.format == 1:
        raise InvalidInput("the file is not an artifact of Skysail: format 1 is a zip archive")
    is_python = manifest.loader == PYTHON_LOADER
    if is_python and all(blob.path != MODEL_FILE for blob in manifest.blobs):
        raise InvalidInput(f"the file is not an artifact of Skysail: it has no {MODEL_FILE}")
    return manifest


def _blobs(manifest: Manifest) -> list[BlobId]:
    return [BlobId(blob.sha256, blob.size_bytes) for blob in manifest.blobs]

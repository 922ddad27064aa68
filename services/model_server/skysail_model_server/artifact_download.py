"""Download of the artifact into the directory of a replica.

A blob comes from the first place that has it: management's directory if it is on this machine, the
cache of the node, management itself.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skysail_common.archives import is_archive
from skysail_common.artifact_files import UnpackedArtifact, unpack_archive
from skysail_common.artifacts import MANIFEST_FILE, Blob, Manifest, file_sha256, parse_manifest
from skysail_common.blob_files import copy, is_intact, place
from skysail_common.clock import MONOTONIC
from skysail_common.errors import SkysailError, Unavailable
from skysail_common.process.threads import in_thread
from skysail_model_server.management_downloads import (
    ArtifactAccess,
    ManagementDownloads,
    Patience,
)
from skysail_model_server.node_cache import NodeCache, cannot_use
from skysail_model_server.unpacked_directories import held

log = logging.getLogger(__name__)

_COPIED_BYTES = 1024 * 1024
"""Size up to which a file of this machine is copied instead of linked."""
_MIB = 1024 * 1024
_CONCURRENT = 8
"""Blobs that are fetched at once: more gain nothing, and small ones would otherwise wait for each
other's round trip."""
_LOOK_EVERY_S = 0.1
_OWN = ".download"


@dataclass(frozen=True)
class DownloadOptions:
    """Sources and limits of a download."""

    timeout_s: float
    """Longest time without progress."""
    artifact_sha256: str = ""
    """SHA-256 that the artifact must have; any if empty."""
    cache_dir: Path | None = None
    """Directory of the node cache; none if None."""
    cache_max_bytes: int = 0
    """Size beyond which the cache removes what it can."""
    blob_source: Path | None = None
    """Directory of this machine with the blobs of management; none if None."""


async def download_artifact(
    access: ArtifactAccess,
    directory: Path,
    options: DownloadOptions,
    progress: Callable[[str], None] = lambda step: None,
) -> UnpackedArtifact:
    """Lay out the artifact of this replica's version in a directory, and return it.

    The download retries while management is unavailable, and continues where it or an earlier one
    stopped.

    Args:
        access: Management, and the replica.
        directory: A directory for this artifact alone. Its files are read-only, and shared with
            the node cache if both are on one file system.
        options: Sources and limits.
        progress: Called with the present step, from the loop.

    Raises:
        Unavailable: management did not answer in time, or another replica holds up a blob.
        InvalidInput: the artifact is corrupt.
        FailedPrecondition: the disk is full, or a directory cannot be written.
        SkysailError: management refused, or the SHA-256 differs.
    """
    began = MONOTONIC()
    patience = Patience(options.timeout_s)
    try:
        async with ManagementDownloads(access, patience) as downloads:
            artifact = await _lay_out(downloads, patience, directory, options, progress)
    except OSError as error:
        raise cannot_use(directory, error) from error
    facts = {"fetched_bytes": downloads.num_bytes, "duration_s": round(MONOTONIC() - began, 3)}
    log.info("artifact fetched", extra=facts)
    return artifact


async def _lay_out(
    downloads: ManagementDownloads,
    patience: Patience,
    directory: Path,
    options: DownloadOptions,
    progress: Callable[[str], None],
) -> UnpackedArtifact:
    own = await in_thread(_prepare, directory)
    download = own / "download"
    sha256 = await downloads.artifact(download)
    await in_thread(_check, download, sha256, options.artifact_sha256)
    if await in_thread(is_archive, download):
        artifact = await in_thread(unpack_archive, download, directory)
    else:
        manifest = parse_manifest(await in_thread(download.read_bytes))
        download.rename(directory / MANIFEST_FILE)
        cache = NodeCache(options.cache_dir or own, options.cache_max_bytes)
        fetch = _Fetch(downloads, cache, patience, progress)
        # Other pods would remove a directory that seems idle for a long time.
        with held(directory):
            await fetch.run(manifest, directory, options.blob_source)
        artifact = UnpackedArtifact(directory, sha256)
    await in_thread(shutil.rmtree, own)
    return artifact


class _Fetch:
    """The fetch of the blobs of one artifact."""

    def __init__(
        self,
        downloads: ManagementDownloads,
        cache: NodeCache,
        patience: Patience,
        progress: Callable[[str], None],
    ) -> None:
        self._downloads = downloads
        self._cache = cache
        self._patience = patience
        self._progress = progress

    async def run(self, manifest: Manifest, directory: Path, source: Path | None) -> None:
        """Place every blob in the directory."""
        absent = await in_thread(self._place_present, manifest.blobs, directory, source)
        if not absent:
            return
        await in_thread(self._cache.make_room, absent)
        # The largest begin first, so that none of them ends the download alone.
        waiting = sorted(absent, key=lambda blob: blob.size_bytes)
        workers = [
            asyncio.ensure_future(self._work(waiting, directory)) for _ in range(_CONCURRENT)
        ]
        reporter = asyncio.ensure_future(self._report(sum(blob.size_bytes for blob in absent)))
        try:
            await asyncio.gather(*workers)
        finally:
            for each in (*workers, reporter):
                each.cancel()
            await asyncio.gather(*workers, reporter, return_exceptions=True)

    def _place_present(
        self, blobs: Sequence[Blob], directory: Path, source: Path | None
    ) -> list[Blob]:
        """Place the blobs that are on this machine, and return the others."""
        absent = []
        for blob in blobs:
            target = directory / blob.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if source is not None and _place_from(source, blob, target):
                continue
            if not self._cache.place(blob, target):
                absent.append(blob)
        return absent

    async def _work(self, waiting: list[Blob], directory: Path) -> None:
        while waiting:
            blob = waiting.pop()
            await self._fetch(blob, directory / blob.path)

    async def _fetch(self, blob: Blob, target: Path) -> None:
        for _ in range(2):
            # Another replica may have completed the blob.
            while not await in_thread(self._cache.place, blob, target):
                partial = await in_thread(self._cache.lock, blob)
                if partial is not None:
                    break
                await self._wait_for_other(blob)
            else:
                return
            with partial:
                await self._downloads.blob(blob, partial)
                if await in_thread(self._cache.publish, partial, blob, target):
                    return
            # The part of an earlier fetch may have been corrupt; the second attempt has none.
        raise SkysailError(
            f"cannot use the artifact: {blob.path} arrived twice with another SHA-256 than "
            f"{blob.sha256}; check the disk of management"
        )

    async def _wait_for_other(self, blob: Blob) -> None:
        """Wait a moment for another replica that fetches a blob; its progress counts."""
        before = self._cache.partial_bytes(blob)
        await asyncio.sleep(min(_LOOK_EVERY_S, self._patience.left_s))
        if self._cache.partial_bytes(blob) != before:
            self._patience.renew()
        elif not self._patience.left_s:
            raise Unavailable(
                f"cannot fetch {blob.path}: another replica holds its lock in the node cache, and "
                f"fetched nothing for {self._patience.timeout_s:g} s; stop that replica"
            )

    async def _report(self, total_bytes: int) -> None:
        while True:
            fetched, total = self._downloads.num_bytes // _MIB, total_bytes // _MIB
            self._progress(f"fetching the artifact, {fetched} of {total} MiB")
            await asyncio.sleep(1)


def _prepare(directory: Path) -> Path:
    """Create the directory of an artifact, and return the place for its files under way.

    That place is on the file system of the artifact, because hard links lead out of it. It keeps what
    an earlier download fetched; everything else is removed.
    """
    own = directory / _OWN
    own.mkdir(parents=True, exist_ok=True)
    for each in directory.iterdir():
        if each.is_dir() and not each.is_symlink():
            if each != own:
                shutil.rmtree(each)
        else:
            each.unlink()
    return own


def _place_from(source: Path, blob: Blob, target: Path) -> bool:
    """Place a blob of a directory; return False if it is absent or damaged there."""
    # User code that runs as root may overwrite a file, which must not reach the store of management.
    # Small files are copied, because only the size of weights justifies a link.
    put = copy if blob.size_bytes <= _COPIED_BYTES else place
    try:
        put(source / blob.sha256, target)
    except FileNotFoundError:
        return False
    if is_intact(target, blob.sha256, blob.size_bytes):
        return True
    target.unlink()
    return False


def _check(download: Path, announced: str, expected: str) -> None:
    digest = file_sha256(download)
    if digest != announced:
        raise SkysailError(
            f"cannot use the artifact: it arrived with SHA-256 {digest}, announced as {announced}; "
            "check the disk of management"
        )
    if expected not in ("", digest):
        raise SkysailError(
            f"cannot use the artifact: its SHA-256 is {digest}, not {expected} as in its deployment; "
            "deploy the version again"
        )

import asyncio
import errno
import hashlib
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysail_common.errors import (
    ArtifactNotFound,
    FailedPrecondition,
    InvalidInput,
    SkysailError,
    StoreUnavailable,
    Unavailable,
)
from skysail_management.artifacts.store import ArtifactStore, count_artifacts
from skysail_testing.clock import FakeClock
from skysail_testing.management_parts import chunked, make_artifact, sha256_of

CONTENT = make_artifact("content", requirements=["six"])
SHA256 = sha256_of(CONTENT)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data" / "artifacts"


@pytest.fixture
def store(directory: Path, clock: FakeClock) -> ArtifactStore:
    return ArtifactStore(directory, 10_000, clock)


def kept(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_file())


async def test_added_artifact_can_be_read(store: ArtifactStore, directory: Path):
    assert not await store.find(SHA256)
    assert await store.add(SHA256, chunked(CONTENT)) == len(CONTENT)
    assert await store.find(SHA256)
    assert store.size_bytes(SHA256) == len(CONTENT)
    assert store.manifest(SHA256).requirements == ("six",)
    with store.open(SHA256) as file:
        assert file.read() == CONTENT
    assert kept(directory) == [SHA256]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_equal_artifacts_are_stored_once(store: ArtifactStore, directory: Path):
    await asyncio.gather(*(store.add(SHA256, chunked(CONTENT, size)) for size in (1, 7, 10**6)))
    assert kept(directory) == [SHA256]


async def test_missing_artifact_is_not_found(store: ArtifactStore):
    for ask in (store.size_bytes, store.manifest, store.open):
        with pytest.raises(ArtifactNotFound, match="was not uploaded"):
            ask("0" * 64)


BAD_NAMES = ["", "../x", "/etc/passwd", SHA256.upper(), SHA256[:-1], SHA256 + "0", "g" * 64, "x\0"]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_name_that_is_no_sha256_is_rejected(store: ArtifactStore, name, directory: Path):
    with pytest.raises(InvalidInput, match="64 lower-case hexadecimal digits"):
        await store.find(name)
    for ask in (store.size_bytes, store.manifest, store.open):
        with pytest.raises(InvalidInput, match="64 lower-case hexadecimal digits"):
            ask(name)
    with pytest.raises(InvalidInput):
        await store.add(name, chunked(CONTENT))
    assert kept(directory) == []


@given(st.text(max_size=70))
def test_no_name_leads_outside_the_directory(tmp_path_factory, name):
    directory = tmp_path_factory.getbasetemp() / "artifacts"
    store = ArtifactStore(directory, 10_000, FakeClock())
    try:
        store.size_bytes(name)
    except InvalidInput:
        return
    except ArtifactNotFound:
        assert len(name) == 64
    else:
        raise AssertionError("something is kept under that name")


async def test_corrupt_upload_is_rejected(store: ArtifactStore, directory: Path):
    with pytest.raises(InvalidInput, match=f"the artifact is corrupt: its SHA-256 is .*{SHA256}"):
        await store.add(SHA256, chunked(CONTENT[:-1]))
    assert kept(directory) == []
    assert not await store.find(SHA256)


async def test_upload_that_is_no_artifact_is_rejected(store: ArtifactStore, directory: Path):
    content = b"PK but not a zip"
    with pytest.raises(InvalidInput, match="not an artifact"):
        await store.add(sha256_of(content), chunked(content))
    assert kept(directory) == []


async def test_upload_is_written_outside_the_event_loop(store, directory: Path, monkeypatch):
    threads: list[threading.Thread] = []
    fsync, sha256 = os.fsync, hashlib.sha256

    def noted(descriptor: int) -> None:
        threads.append(threading.current_thread())
        fsync(descriptor)

    class Digest:
        def __init__(self) -> None:
            self._digest = sha256()
            self.hexdigest = self._digest.hexdigest

        def update(self, chunk: bytes) -> None:
            threads.append(threading.current_thread())
            self._digest.update(chunk)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(hashlib, "sha256", Digest)
    await store.add(SHA256, chunked(CONTENT, 100))
    assert len(threads) == -(-len(CONTENT) // 100) + 2
    assert threading.main_thread() not in threads
    assert (directory / SHA256).read_bytes() == CONTENT


async def test_a_cancelled_upload_ends_its_write_and_leaves_nothing(
    store, directory: Path, monkeypatch
):
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    fsync = os.fsync
    synced = []

    def slow(descriptor: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        # Raises where the file was closed meanwhile.
        fsync(descriptor)
        synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    adding = asyncio.create_task(store.add(SHA256, chunked(CONTENT)))
    await begun.wait()
    adding.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert synced
    assert kept(directory) == []
    assert not await store.find(SHA256)


async def test_oversized_upload_is_rejected_before_its_end(store, directory: Path):
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 1000
            yield b"PK" * 500

    with pytest.raises(InvalidInput, match="at most 10000 bytes are allowed"):
        await store.add(SHA256, endless())
    assert sent <= 12_000
    assert kept(directory) == []


async def test_interrupted_upload_leaves_nothing(store, directory: Path):
    async def broken():
        yield CONTENT[:100]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await store.add(SHA256, broken())
    assert kept(directory) == []


async def test_leftover_uploads_of_an_earlier_management_are_removed(directory: Path, clock):
    directory.mkdir(parents=True)
    (directory / "upload-abc").write_bytes(b"half")
    (directory / SHA256).write_bytes(CONTENT)
    ArtifactStore(directory, 10_000, clock)
    assert kept(directory) == [SHA256]


async def test_corruption_on_disk_is_detected_and_repaired_by_the_next_upload(
    store, directory: Path
):
    await store.add(SHA256, chunked(CONTENT))
    damaged = bytearray(CONTENT)
    damaged[len(damaged) // 2] ^= 1
    (directory / SHA256).write_bytes(damaged)
    with pytest.raises(SkysailError, match="corrupt on disk"):
        store.open(SHA256)
    # A client calls `find` before it deploys.
    assert not await store.find(SHA256)
    await store.add(SHA256, chunked(CONTENT))
    store.open(SHA256).close()


async def test_sweep_keeps_artifacts_of_versions(store: ArtifactStore, clock: FakeClock):
    await store.add(SHA256, chunked(CONTENT))
    clock.advance(3600)
    store.sweep({SHA256})
    assert store.size_bytes(SHA256)
    store.sweep(set())
    with pytest.raises(ArtifactNotFound):
        store.size_bytes(SHA256)


async def test_sweep_keeps_recently_uploaded_or_found_artifacts(
    store: ArtifactStore, clock: FakeClock
):
    await store.add(SHA256, chunked(CONTENT))
    clock.advance(599)
    store.sweep(set())
    assert await store.find(SHA256)
    clock.advance(599)
    store.sweep(set())
    assert store.size_bytes(SHA256)
    clock.advance(2)
    store.sweep(set())
    assert not await store.find(SHA256)


async def test_deployment_consumes_the_reservation(store: ArtifactStore):
    await store.add(SHA256, chunked(CONTENT))
    with store.pin(SHA256):
        store.sweep(set())
    store.sweep({SHA256})
    assert store.size_bytes(SHA256)
    store.sweep(set())
    assert not await store.find(SHA256)


async def test_artifact_found_by_two_callers_survives_the_rejection_of_one(store: ArtifactStore):
    await store.add(SHA256, chunked(CONTENT))
    assert await store.find(SHA256)
    with pytest.raises(InvalidInput), store.pin(SHA256):
        raise InvalidInput("the first is refused")
    store.sweep(set())
    with store.pin(SHA256):
        assert store.size_bytes(SHA256)
    store.sweep(set())
    assert not await store.find(SHA256)


async def test_pinned_artifact_survives_the_end_of_its_reservation(
    store: ArtifactStore, clock: FakeClock
):
    await store.add(SHA256, chunked(CONTENT))
    with store.pin(SHA256):
        with store.pin(SHA256):
            clock.advance(3600)
            store.sweep(set())
        store.sweep(set())
        assert store.size_bytes(SHA256)
    store.sweep(set())
    assert not await store.find(SHA256)


async def test_deployment_with_unknown_outcome_keeps_its_artifact(
    store: ArtifactStore, clock: FakeClock
):
    await store.add(SHA256, chunked(CONTENT))
    with pytest.raises(StoreUnavailable), store.pin(SHA256):
        raise StoreUnavailable("gone")
    store.sweep(set())
    assert store.size_bytes(SHA256)
    clock.advance(601)
    store.sweep(set())
    assert not await store.find(SHA256)


async def test_reservations_of_one_artifact_are_bounded(store: ArtifactStore):
    await store.add(SHA256, chunked(CONTENT))
    for _ in range(2000):
        await store.find(SHA256)
    for _ in range(1001):
        with store.pin(SHA256):
            pass
    store.sweep(set())
    assert not await store.find(SHA256)


def on_full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def without_descriptors(**_: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_upload_to_a_full_disk_fails_with_the_cause_and_leaves_nothing(
    store, directory, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", on_full_disk)
        with pytest.raises(FailedPrecondition, match="No space left on device; free space"):
            await store.add(SHA256, chunked(CONTENT))
    assert kept(directory) == []
    await store.add(SHA256, chunked(CONTENT))


async def test_upload_without_a_descriptor_fails_with_the_cause(store, monkeypatch):
    monkeypatch.setattr("tempfile.mkstemp", without_descriptors)
    with pytest.raises(Unavailable, match="Too many open files; free space or descriptors"):
        await store.add(SHA256, chunked(CONTENT))


async def test_every_operation_names_a_missing_directory(store, directory: Path):
    await store.add(SHA256, chunked(CONTENT))
    shutil.rmtree(directory)
    with pytest.raises(FailedPrecondition, match=f"{directory} is gone; restore it"):
        await store.add(SHA256, chunked(CONTENT))
    assert not await store.find(SHA256)
    with pytest.raises(ArtifactNotFound):
        store.open(SHA256)
    store.sweep(set())


async def test_artifact_name_is_as_durable_as_its_content(store, directory, monkeypatch):
    steps = []
    replace, fsync = os.replace, os.fsync

    def noted(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        steps.append("directory" if stat.S_ISDIR(mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("rename"), replace(*paths)))
    await store.add(SHA256, chunked(CONTENT))
    assert steps == ["file", "rename", "directory"]


def test_count_of_a_missing_directory_is_zero(directory: Path):
    assert count_artifacts(directory) == 0
    directory.mkdir(parents=True)
    (directory / SHA256).write_bytes(CONTENT)
    (directory / "upload-abc").write_bytes(b"half")
    assert count_artifacts(directory) == 1


async def test_sweep_ignores_uploads_in_progress(store: ArtifactStore, directory: Path):
    half_way, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        yield CONTENT[:100]
        half_way.set()
        await go_on.wait()
        yield CONTENT[100:]

    adding = asyncio.create_task(store.add(SHA256, slow()))
    await half_way.wait()
    store.sweep(set())
    go_on.set()
    await adding
    assert kept(directory) == [SHA256]

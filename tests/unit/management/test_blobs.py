import asyncio
import errno
import hashlib
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from skysail_common.errors import (
    ArtifactNotFound,
    Conflict,
    FailedPrecondition,
    InvalidInput,
    SkysailError,
    Unavailable,
)
from skysail_management.artifacts.blobs import BlobId, BlobStart, BlobStore
from skysail_management.artifacts.partial_uploads import BlobWriter, PartialUploads
from skysail_testing.clock import FakeClock

MAX_BYTES = 100_000
A, B = b"a" * 30_000, b"b" * 20_000


def blob_id(content: bytes) -> BlobId:
    return BlobId(hashlib.sha256(content).hexdigest(), len(content))


ID_A, ID_B = blob_id(A), blob_id(B)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def store(directory: Path, clock: FakeClock) -> BlobStore:
    return BlobStore(directory, MAX_BYTES, clock)


def parts(content: bytes, offset: int = 0, size: int = 1000) -> list[BlobStart | bytes]:
    rest = content[offset:]
    chunks = [rest[begin : begin + size] for begin in range(0, len(rest), size)]
    return [BlobStart(blob_id(content), offset), *chunks]


async def sent(
    *messages: BlobStart | bytes, error: BaseException | None = None
) -> AsyncIterator[BlobStart | bytes]:
    for message in messages:
        await asyncio.sleep(0)
        yield message
    if error is not None:
        raise error


async def half_sent(store: BlobStore, content: bytes, num_chunks: int) -> None:
    """Break an upload after some chunks of 1000 bytes."""
    with pytest.raises(ConnectionError):
        await store.add(sent(*parts(content)[: num_chunks + 1], error=ConnectionError()))


def stored(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "blobs").iterdir())


def partial(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "partial").iterdir())


def read(store: BlobStore, blob: BlobId) -> bytes:
    with store.open(blob.sha256) as file:
        return file.read()


async def test_blobs_of_one_stream_are_stored_read_only(store: BlobStore, directory: Path):
    assert await store.find([ID_A, ID_B]) == {ID_A.sha256: 0, ID_B.sha256: 0}
    assert await store.add(sent(*parts(A), *parts(B))) == len(A) + len(B)
    assert await store.find([ID_A, ID_B]) == {}
    assert (read(store, ID_A), read(store, ID_B)) == (A, B)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (directory / "blobs").iterdir()}
    assert modes == {0o444}
    assert partial(directory) == []


async def test_the_disk_writes_of_many_blobs_overlap(store: BlobStore, monkeypatch):
    real_fsync, both = os.fsync, threading.Barrier(2, timeout=10)

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            both.wait()
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    await store.add(sent(*parts(A), *parts(B)))
    assert [read(store, ID_A), read(store, ID_B)] == [A, B]


async def test_a_corrupt_blob_between_others_fails_the_upload(store: BlobStore, directory: Path):
    blobs = [bytes([number]) * 100 for number in range(40)]
    messages = [part for content in blobs for part in parts(content)]
    messages[41] = b"x" * 100
    with pytest.raises(InvalidInput, match=blob_id(blobs[20]).sha256):
        await store.add(sent(*messages))
    assert partial(directory) == []
    assert set(stored(directory)) <= {blob_id(content).sha256 for content in blobs}
    assert blob_id(blobs[20]).sha256 not in stored(directory)


async def test_an_empty_blob_is_stored(store: BlobStore):
    await store.add(sent(*parts(b"")))
    assert read(store, blob_id(b"")) == b""


async def test_a_broken_upload_continues_where_it_broke(store: BlobStore, directory: Path):
    await half_sent(store, A, 12)
    assert await store.find([ID_A, ID_B]) == {ID_A.sha256: 12_000, ID_B.sha256: 0}
    assert await store.add(sent(*parts(A, 12_000))) == len(A) - 12_000
    assert read(store, ID_A) == A
    assert partial(directory) == []


async def test_a_stream_that_ends_within_a_blob_keeps_its_bytes(store: BlobStore):
    with pytest.raises(Unavailable, match="the stream ended within one"):
        await store.add(sent(*parts(A)[:5]))
    assert await store.find([ID_A]) == {ID_A.sha256: 4000}


async def test_an_upload_continues_after_a_restart(store, directory: Path, clock: FakeClock):
    await half_sent(store, A, 12)
    again = BlobStore(directory, MAX_BYTES, clock)
    assert await again.find([ID_A]) == {ID_A.sha256: 12_000}
    await again.add(sent(*parts(A, 12_000)))
    assert read(again, ID_A) == A


async def test_an_upload_may_continue_before_the_stored_end(store: BlobStore):
    await half_sent(store, A, 12)
    await store.add(sent(*parts(A, 5_000)))
    assert read(store, ID_A) == A


async def test_an_offset_beyond_the_stored_bytes_is_a_conflict(store: BlobStore):
    await half_sent(store, A, 12)
    with pytest.raises(Conflict, match="the stored bytes changed; ask for the missing blobs"):
        await store.add(sent(*parts(A, 13_000)))
    assert await store.find([ID_A]) == {ID_A.sha256: 12_000}


async def test_corrupt_bytes_of_an_earlier_upload_are_sent_again(store, directory: Path):
    await half_sent(store, A, 12)
    [name] = partial(directory)
    (directory / "partial" / name).write_bytes(b"x" * 12_000)
    with pytest.raises(Conflict, match=r"it is corrupt: .* send it again from the beginning"):
        await store.add(sent(*parts(A, 12_000)))
    assert await store.find([ID_A]) == {ID_A.sha256: 0}


async def test_a_partial_file_that_became_shorter_is_a_conflict(store, directory: Path):
    await half_sent(store, A, 12)
    [name] = partial(directory)
    os.truncate(directory / "partial" / name, 100)
    with pytest.raises(Conflict, match="the stored bytes changed"):
        await store.add(sent(*parts(A, 12_000)))
    assert await store.find([ID_A]) == {ID_A.sha256: 0}


async def test_two_clients_upload_the_same_blob_at_once(store: BlobStore, directory: Path):
    sizes = await asyncio.gather(*(store.add(sent(*parts(A, 0, size))) for size in (10, 999, 7000)))
    assert sizes == [len(A)] * 3
    assert stored(directory) == [ID_A.sha256]
    assert partial(directory) == []


async def test_bytes_of_an_active_upload_are_not_offered(store: BlobStore, clock: FakeClock):
    half_way, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[BlobStart | bytes]:
        first, *rest = parts(A)
        yield first
        for chunk in rest[:12]:
            yield chunk
        half_way.set()
        await go_on.wait()
        for chunk in rest[12:]:
            yield chunk

    adding = asyncio.create_task(store.add(slow()))
    await half_way.wait()
    assert await store.find([ID_A]) == {ID_A.sha256: 0}
    # Its client has vanished, and a new connection continues.
    clock.advance(3)
    [offset] = (await store.find([ID_A])).values()
    assert offset == 12_000
    await store.add(sent(*parts(A, offset)))
    assert read(store, ID_A) == A
    go_on.set()
    with pytest.raises(Conflict):
        await adding
    assert read(store, ID_A) == A


async def test_a_cancelled_upload_can_continue(store: BlobStore):
    half_way = asyncio.Event()

    async def stopped() -> AsyncIterator[BlobStart | bytes]:
        for part in parts(A)[:13]:
            yield part
        half_way.set()
        await asyncio.Event().wait()

    adding = asyncio.create_task(store.add(stopped()))
    await half_way.wait()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert await store.find([ID_A]) == {ID_A.sha256: 12_000}


async def test_an_upload_that_is_cancelled_at_its_very_end_leaves_no_part(
    store: BlobStore, directory: Path, monkeypatch
):
    real_finish = BlobWriter.finish

    def finish(writer: BlobWriter, target: Path) -> None:
        real_finish(writer, target)
        loop.call_soon_threadsafe(cancel)
        cancelled.wait(10)

    def cancel() -> None:
        adding.cancel()
        cancelled.set()

    loop, cancelled = asyncio.get_running_loop(), threading.Event()
    monkeypatch.setattr(BlobWriter, "finish", finish)
    adding = asyncio.create_task(store.add(sent(*parts(A))))
    with pytest.raises(asyncio.CancelledError):
        await adding
    monkeypatch.undo()
    assert stored(directory) == [ID_A.sha256]
    store.path(ID_A.sha256).unlink()
    assert await store.find([ID_A]) == {ID_A.sha256: 0}


def test_a_writer_that_lost_its_file_before_it_opened_it_writes_nothing(tmp_path: Path, clock):
    partials = PartialUploads(tmp_path, MAX_BYTES, clock)
    first = partials.take(ID_A.sha256, len(A), 0)
    first.open()
    first.write(A[:1000])
    first.close()
    partials.release(first)
    # All threads are busy, so that the second upload has not opened its file when a third continues.
    second = partials.take(ID_A.sha256, len(A), 1000)
    clock.advance(3)
    third = partials.take(ID_A.sha256, len(A), 1000)
    third.open()
    with pytest.raises(Conflict):
        second.open()
    third.write(A[1000:])
    third.finish(tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == A


WRONG_STREAMS = {
    "no header": ([b"x"], "first message must be a header"),
    "other content": ([BlobStart(ID_A, 0), b"x" * len(A)], "it is corrupt: its SHA-256 is"),
    "too long": ([*parts(A), b"x"], "more than the announced 30000 bytes"),
    "too short": ([*parts(A)[:3], *parts(B)], "2000 of 30000 announced bytes arrived"),
    "too large": ([BlobStart(BlobId(ID_A.sha256, 10**6), 0)], "at most 100000 bytes are allowed"),
    "a path": ([BlobStart(BlobId("../../x", 1), 0), b"x"], "64 lower-case hexadecimal digits"),
}


@pytest.mark.parametrize("case", WRONG_STREAMS)
async def test_a_wrong_stream_is_rejected_and_leaves_no_wrong_blob(store, case, directory: Path):
    messages, text = WRONG_STREAMS[case]
    with pytest.raises(InvalidInput, match=text):
        await store.add(sent(*messages))
    assert partial(directory) == []
    assert set(stored(directory)) <= {ID_B.sha256}


async def test_the_bytes_of_one_stream_are_bounded(store: BlobStore):
    contents = [bytes([number]) * 30_000 for number in range(4)]
    with pytest.raises(InvalidInput, match="at most 100000 bytes are allowed"):
        await store.add(sent(*(part for content in contents for part in parts(content))))


WRONG_LISTS = {
    "too large": ([ID_A, BlobId("0" * 64, 80_000)], r"its files have 110000 bytes; at most 100000"),
    "absurd": ([BlobId("0" * 64, 2**64 - 1)], "setting max-artifact-bytes of management"),
    "a name": ([BlobId("x", 1)], "64 lower-case hexadecimal digits"),
    "two sizes": ([ID_A, BlobId(ID_A.sha256, 7)], "listed with two sizes"),
    "too many": ([ID_A] * 20_001, "it has 20001 files; at most 20000 are allowed"),
}


@pytest.mark.parametrize("case", WRONG_LISTS)
async def test_a_wrong_list_is_rejected_before_the_upload(store: BlobStore, case):
    blobs, text = WRONG_LISTS[case]
    with pytest.raises(InvalidInput, match=text):
        await store.find(blobs)


async def test_a_blob_of_another_size_is_rejected(store: BlobStore):
    await store.add(sent(*parts(A)))
    with pytest.raises(InvalidInput, match="has 30000 bytes, not 29999"):
        await store.find([BlobId(ID_A.sha256, 29_999)])


async def test_an_artifact_that_does_not_fit_on_the_disk_is_rejected_before_the_upload(
    store: BlobStore, monkeypatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=25_000))
    with pytest.raises(FailedPrecondition, match=r"30000 bytes are missing, .* 25000 bytes free"):
        await store.find([ID_A])
    await half_sent(store, A, 12)
    assert await store.find([ID_A]) == {ID_A.sha256: 12_000}


async def test_a_full_disk_fails_the_upload_and_leaves_nothing(store, directory, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FailedPrecondition, match="No space left on device; free space"):
            await store.add(sent(*parts(A)))
    assert stored(directory) == partial(directory) == []
    await store.add(sent(*parts(A)))


async def test_a_corrupt_blob_is_found_and_sent_again(store: BlobStore, directory: Path):
    await store.add(sent(*parts(A)))
    path = directory / "blobs" / ID_A.sha256
    path.chmod(0o600)
    path.write_bytes(b"x" * len(A))
    with pytest.raises(SkysailError, match="corrupt on disk; deploy the version again"):
        store.open(ID_A.sha256)
    assert await store.find([ID_A]) == {ID_A.sha256: 0}
    await store.add(sent(*parts(A)))
    assert read(store, ID_A) == A


async def test_content_is_compared_once(store, directory: Path, clock, monkeypatch):
    await store.add(sent(*parts(A)))
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr("skysail_common.blob_files.file_sha256", counted)
    await store.find([ID_A])
    read(store, ID_A)
    assert hashed == []
    again = BlobStore(directory, MAX_BYTES, clock)
    read(again, ID_A)
    assert hashed == []
    # Any change of a file changes this time.
    os.utime(store.path(ID_A.sha256))
    await again.find([ID_A])
    read(again, ID_A)
    assert len(hashed) == 1


async def test_a_missing_blob_is_not_found(store: BlobStore):
    with pytest.raises(ArtifactNotFound, match="was not uploaded"):
        store.open(ID_A.sha256)
    await store.add(sent(*parts(A)))
    with pytest.raises(ArtifactNotFound, match=f"1 blobs are missing, such as {ID_B.sha256}"):
        await store.check([ID_A, ID_B])


async def test_a_sweep_keeps_named_reserved_and_pinned_blobs(store, directory, clock: FakeClock):
    await store.add(sent(*parts(A), *parts(B)))
    store.sweep(set())
    assert len(stored(directory)) == 2
    clock.advance(3 * 3600)
    with store.pinned([ID_A.sha256]):
        store.sweep({ID_B.sha256})
    assert len(stored(directory)) == 2
    await store.find([ID_A])
    store.sweep(set())
    assert stored(directory) == [ID_A.sha256]
    store.consume([ID_A.sha256])
    store.sweep(set())
    assert stored(directory) == []


async def test_old_partial_uploads_are_removed(store, directory: Path, clock: FakeClock):
    await half_sent(store, A, 12)
    clock.advance(23 * 3600)
    store.sweep(set())
    assert await store.find([ID_A]) == {ID_A.sha256: 12_000}
    clock.advance(2 * 3600)
    store.sweep(set())
    assert partial(directory) == []
    assert await store.find([ID_A]) == {ID_A.sha256: 0}


async def test_partial_uploads_are_bounded_in_number_and_bytes(store, directory, clock):
    for number in range(110):
        await half_sent(store, bytes([number]) * 3000, 1)
        clock.advance(1)
    store.sweep(set())
    assert len(partial(directory)) == 100
    for number in range(5):
        await half_sent(store, bytes([number]) * 50_000, 30)
        clock.advance(1)
    store.sweep(set())
    assert len(partial(directory)) < 20
    newest = blob_id(bytes([4]) * 50_000)
    assert await store.find([newest]) == {newest.sha256: 30_000}


async def test_uploads_at_once_are_bounded(store: BlobStore):
    begun, go_on = 0, asyncio.Event()

    async def waiting(number: int) -> AsyncIterator[BlobStart | bytes]:
        nonlocal begun
        yield BlobStart(blob_id(bytes([number])), 0)
        begun += 1
        await go_on.wait()
        yield bytes([number])

    uploads = [asyncio.create_task(store.add(waiting(number))) for number in range(65)]
    done, _ = await asyncio.wait(uploads, return_when=asyncio.FIRST_COMPLETED)
    [refused] = done
    assert isinstance(refused.exception(), Unavailable)
    go_on.set()
    results = await asyncio.gather(*uploads, return_exceptions=True)
    assert results.count(1) == 64

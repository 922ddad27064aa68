import hashlib
import io
import struct
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from skysail_common.artifacts import (
    MAX_MANIFEST_BYTES,
    Blob,
)
from skysail_common.errors import ArtifactNotFound, InvalidInput
from skysail_management.artifacts.blobs import BlobId, BlobStart
from skysail_management.artifacts.store import ArtifactStore
from skysail_testing.clock import FakeClock
from skysail_testing.management_parts import chunked, make_artifact, make_manifest, sha256_of

MAX_BYTES = 100_000
FILES = {"model.pkl": b"pickled", "data/weights.bin": b"w" * 50_000, "data/same.bin": b"pickled"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def store(directory: Path, clock: FakeClock) -> ArtifactStore:
    return ArtifactStore(directory, MAX_BYTES, clock)


def blob(path: str, content: bytes) -> Blob:
    return Blob(path=path, sha256=sha256_of(content), size_bytes=len(content))


async def upload_blobs(store: ArtifactStore, *contents: bytes) -> None:
    async def parts() -> AsyncIterator[BlobStart | bytes]:
        for content in contents:
            yield BlobStart(BlobId(sha256_of(content), len(content)), 0)
            yield content

    await store.blobs.add(parts())


async def upload(store: ArtifactStore, files: Mapping[str, bytes] = FILES) -> str:
    await upload_blobs(store, *set(files.values()))
    content = make_manifest(files)
    await store.add(sha256_of(content), chunked(content))
    return sha256_of(content)


async def test_manifest_and_blobs_are_an_artifact(store: ArtifactStore):
    sha256 = await upload(store)
    assert await store.find(sha256)
    with store.open(sha256) as file:
        assert file.read() == make_manifest(FILES)
    assert [each.path for each in store.manifest(sha256).blobs] == list(FILES)
    # Equal files count once, because they are stored once.
    assert store.size_bytes(sha256) == 50_007
    with store.open_blob(sha256, sha256_of(b"w" * 50_000)) as file:
        assert file.read() == b"w" * 50_000


async def test_a_format_may_have_pickles_in_files_of_its_own(store: ArtifactStore):
    files = {"data/model.joblib": b"pickled"}
    await upload_blobs(store, *files.values())
    content = make_manifest(files, loader="pickle-file", has_pickles=True)
    await store.add(sha256_of(content), chunked(content))
    assert await store.find(sha256_of(content))


async def test_a_missing_blob_is_named_and_the_manifest_is_not_stored(store, directory: Path):
    await upload_blobs(store, b"pickled")
    content = make_manifest(FILES)
    with pytest.raises(ArtifactNotFound, match=f"such as {sha256_of(b'w' * 50_000)}; upload them"):
        await store.add(sha256_of(content), chunked(content))
    assert [path.name for path in directory.iterdir() if path.is_file()] == []


async def test_an_artifact_without_one_of_its_blobs_is_not_found(store, directory: Path):
    sha256 = await upload(store)
    (directory / "blobs" / sha256_of(b"pickled")).unlink()
    assert not await store.find(sha256)


async def test_a_sweep_during_find_keeps_the_artifact(store, clock: FakeClock, monkeypatch):
    sha256 = await upload(store)
    clock.advance(3 * 3600)
    real_check = store.blobs.check

    async def check(blobs: Sequence[BlobId]) -> None:
        await real_check(blobs)
        store.sweep(set())

    monkeypatch.setattr(store.blobs, "check", check)
    assert await store.find(sha256)
    store.sweep(set())
    assert store.manifest(sha256).blobs
    store.open_blob(sha256, sha256_of(b"pickled")).close()


async def test_a_version_reads_only_its_own_blobs(store: ArtifactStore):
    sha256 = await upload(store)
    await upload_blobs(store, b"secret of another version")
    with pytest.raises(ArtifactNotFound, match="has no blob"):
        store.open_blob(sha256, sha256_of(b"secret of another version"))
    with pytest.raises(ArtifactNotFound, match="has no blob"):
        store.open_blob(sha256, "../../etc/passwd")


async def test_blobs_are_kept_while_an_artifact_names_them(store, directory, clock: FakeClock):
    one = await upload(store)
    other = await upload(store, {"model.pkl": b"new", "data/weights.bin": b"w" * 50_000})
    clock.advance(24 * 3600)
    store.sweep({one, other})
    assert len(list((directory / "blobs").iterdir())) == 3
    store.sweep({other})
    assert sorted(path.name for path in (directory / "blobs").iterdir()) == sorted(
        sha256_of(content) for content in (b"new", b"w" * 50_000)
    )
    store.sweep(set())
    assert list((directory / "blobs").iterdir()) == []


async def test_a_removed_artifact_leaves_no_blobs_at_once(store, directory: Path):
    sha256 = await upload(store)
    with store.pin(sha256):
        pass
    store.sweep(set())
    assert list((directory / "blobs").iterdir()) == []


async def test_blobs_of_an_upload_survive_a_restart_until_their_reservation_ends(
    store, directory: Path, clock: FakeClock
):
    await upload_blobs(store, *FILES.values())
    again = ArtifactStore(directory, MAX_BYTES, clock)
    again.sweep(set())
    content = make_manifest(FILES)
    await again.add(sha256_of(content), chunked(content))
    restarted = ArtifactStore(directory, MAX_BYTES, clock)
    restarted.sweep(set())
    assert list((directory / "blobs").iterdir()) == []


async def test_an_unreadable_manifest_on_disk_does_not_stop_the_sweep(store, directory: Path):
    sha256 = await upload(store)
    (directory / sha256).write_bytes(b"{")
    again = ArtifactStore(directory, MAX_BYTES, FakeClock())
    again.sweep({sha256})
    assert not await again.find(sha256)


LYING = {
    "a path outside": {"blobs": [{"path": "../x", "sha256": "0" * 64, "size_bytes": 1}]},
    "an absolute path": {"blobs": [{"path": "/etc/x", "sha256": "0" * 64, "size_bytes": 1}]},
    "a long path": {"blobs": [{"path": "x" * 513, "sha256": "0" * 64, "size_bytes": 1}]},
    "the same path twice": {"blobs": [blob("model.pkl", b"1").model_dump()] * 2},
    "a path below a file": {
        "blobs": [blob("model.pkl", b"1").model_dump(), blob("model.pkl/x", b"1").model_dump()]
    },
    "a path below the manifest": {
        "blobs": [blob("model.pkl", b"1").model_dump(), blob("manifest.json/x", b"1").model_dump()]
    },
    "no pickle": {"blobs": [blob("data/x", b"pickled").model_dump()]},
    "no SHA-256": {"blobs": [{"path": "model.pkl", "sha256": "x", "size_bytes": 1}]},
    "another size": {
        "blobs": [{"path": "model.pkl", "sha256": sha256_of(b"pickled"), "size_bytes": 1}]
    },
    "a negative size": {"blobs": [{"path": "model.pkl", "sha256": "0" * 64, "size_bytes": -1}]},
    "an absurd size": {"blobs": [{"path": "model.pkl", "sha256": "0" * 64, "size_bytes": 10**30}]},
    "too many files": {
        "blobs": [blob(f"data/{number}", b"pickled").model_dump() for number in range(20_001)]
    },
    "format 1": {"format": 1},
    "an unknown format": {"format": 99},
}


@pytest.mark.parametrize("case", LYING)
async def test_a_manifest_that_lies_is_refused(store: ArtifactStore, case, directory: Path):
    await upload_blobs(store, *FILES.values())
    content = make_manifest(FILES, **LYING[case])
    with pytest.raises(InvalidInput):
        await store.add(sha256_of(content), chunked(content, 100_000))
    assert [path.name for path in directory.iterdir() if path.is_file()] == []


async def test_a_manifest_is_bounded(store: ArtifactStore):
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 10**6
            yield b" " * 10**6

    with pytest.raises(InvalidInput, match="its manifest is larger than"):
        await store.add("0" * 64, endless())
    assert sent <= MAX_MANIFEST_BYTES + 10**6


def zip_of(entries: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO(make_artifact())
    with zipfile.ZipFile(content, "a", method) as archive:
        for name, entry in entries.items():
            archive.writestr(zipfile.ZipInfo(name), entry, method)
    return content.getvalue()


def link() -> bytes:
    content = io.BytesIO(make_artifact())
    with zipfile.ZipFile(content, "a") as archive:
        info = zipfile.ZipInfo("modules/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return content.getvalue()


def with_large_directory() -> bytes:
    """Return an archive that declares a directory of 4 GB."""
    content = bytearray(make_artifact())
    end = content.rindex(b"PK\5\6")
    struct.pack_into("<L", content, end + 12, 2**32 - 2)
    return bytes(content)


ARCHIVES = {
    "a bomb": (
        zip_of({"modules/x": b"\0" * 1_000_000}, zipfile.ZIP_DEFLATED),
        r"it unpacks to 10\d+ bytes, and 100000 are allowed",
    ),
    "a path outside": (zip_of({"../x": b""}), "'../x' is not a path inside an artifact"),
    "an absolute path": (zip_of({"/x": b""}), "is not a path inside"),
    "a link": (link(), "is no file"),
    "a folder": (zip_of({"modules/": b""}), "is no file"),
    "another method": (zip_of({"modules/x": b"1"}, zipfile.ZIP_BZIP2), "an unknown method"),
    "too many files": (zip_of({str(n): b"" for n in range(20_000)}), "at most 20000 are allowed"),
    "a large directory": (with_large_directory(), "not an artifact"),
    "no manifest": (b"PK\5\6" + bytes(18), "not an artifact"),
}


@pytest.mark.parametrize("case", ARCHIVES)
async def test_a_hostile_archive_is_refused(directory: Path, clock: FakeClock, case):
    content, text = ARCHIVES[case]
    # Its own size is not the reason.
    store = ArtifactStore(directory, max(MAX_BYTES, len(content)), clock)
    with pytest.raises(InvalidInput, match=text.replace("100000", r"\d+")):
        await store.add(hashlib.sha256(content).hexdigest(), chunked(content, 10**6))
    assert [path.name for path in directory.iterdir() if path.is_file()] == []


async def test_two_entries_of_one_path_are_refused(store: ArtifactStore):
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zip_of({"modules/x": b"1", "model.pkl": b"2"})
    with pytest.raises(InvalidInput, match="two of its files have the same path"):
        await store.add(sha256_of(content), chunked(content, 1000))

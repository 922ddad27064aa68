import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skysail_management.ownership.data_dir_lock import LOCK_FILE
from skysail_management.ownership.owner_identity import owner_identity
from skysail_management.ownership.store_checkpoint import CheckpointFile, StoreCheckpoint

SEEN = StoreCheckpoint("id", 7, 2)


def test_next_management_reads_the_checkpoint(tmp_path: Path):
    assert CheckpointFile(tmp_path, "c").read() is None
    CheckpointFile(tmp_path, "c").write(SEEN)
    assert CheckpointFile(tmp_path, "c").read() == SEEN
    assert SEEN.name == f"id-{SEEN.epoch}-7"


def test_directory_may_be_shared_by_clusters(tmp_path: Path):
    CheckpointFile(tmp_path, "c").write(SEEN)
    CheckpointFile(tmp_path, "d").write(StoreCheckpoint("other", 1, 1))
    assert CheckpointFile(tmp_path, "c").read() == SEEN
    assert CheckpointFile(tmp_path, "d").read() == StoreCheckpoint("other", 1, 1)


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", '{"c": 1}', '{"c": {"id": "a"}}', '{"c": {"id": 1, "revision": "x"}}'],
)
def test_unreadable_checkpoint_is_replaced(tmp_path: Path, text: str):
    (tmp_path / "store-seen.json").write_text(text)
    note = CheckpointFile(tmp_path, "c")
    assert note.read() is None
    note.write(SEEN)
    assert note.read() == SEEN


def test_failed_write_is_logged(tmp_path: Path, caplog):
    CheckpointFile(tmp_path / "gone", "c").write(SEEN)
    assert "store checkpoint not written" in caplog.text


def test_concurrent_writes_are_serialised(tmp_path: Path, monkeypatch):
    fsync, second_begins = os.fsync, threading.Event()
    inside: list[int] = []

    def slow(descriptor: int) -> None:
        inside.append(descriptor)
        if len(inside) == 2:
            second_begins.set()
        elif second_begins.wait(0.2):
            pytest.fail("two threads write one file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    note = CheckpointFile(tmp_path, "c")
    with ThreadPoolExecutor(2) as threads:
        for writing in [threads.submit(note.write, StoreCheckpoint("id", n, 1)) for n in (1, 1000)]:
            writing.result()
    assert len(inside) == 2
    assert note.read() == StoreCheckpoint("id", 1000, 1)


def test_checkpoint_of_a_newer_skysail_may_have_more_fields(tmp_path: Path):
    note = {"c": {"id": "id", "revision": 7, "epoch": 2, "more": 1}}
    (tmp_path / "store-seen.json").write_text(json.dumps(note))
    assert CheckpointFile(tmp_path, "c").read() == SEEN


def test_lock_identifies_an_owner(tmp_path: Path):
    place, other = tmp_path / "a", tmp_path / "b"
    place.mkdir()
    (place / LOCK_FILE).touch()
    first = owner_identity(place)
    assert owner_identity(place).locks == first.locks
    assert len(first.locks) == 1
    assert str(os.getpid()) in first.place
    assert str(place) in first.place
    shutil.copytree(place, other)
    assert owner_identity(other).locks != first.locks
    place.rename(tmp_path / "moved")
    assert owner_identity(tmp_path / "moved").locks == first.locks


def test_lease_also_identifies_an_owner(tmp_path: Path):
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir()
        (directory / LOCK_FILE).touch()
    here, there = (owner_identity(directory, "uid") for directory in directories)
    assert set(here.locks) & set(there.locks) == {"lease uid"}
    assert set(here.locks) & set(owner_identity(directories[0]).locks)

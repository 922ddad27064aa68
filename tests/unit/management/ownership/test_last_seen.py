import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skysail_management.ownership.claimant import LOCK_FILE, claimant
from skysail_management.ownership.last_seen import LastSeen, LastSeenNote

SEEN = LastSeen("id", 7, 2)


def test_what_was_seen_is_known_to_the_next(tmp_path: Path):
    assert LastSeenNote(tmp_path, "c").read() is None
    LastSeenNote(tmp_path, "c").write(SEEN)
    assert LastSeenNote(tmp_path, "c").read() == SEEN
    assert SEEN.name == f"id-{SEEN.epoch}-7"


def test_a_directory_may_be_that_of_several_clusters(tmp_path: Path):
    LastSeenNote(tmp_path, "c").write(SEEN)
    LastSeenNote(tmp_path, "d").write(LastSeen("other", 1, 1))
    assert LastSeenNote(tmp_path, "c").read() == SEEN
    assert LastSeenNote(tmp_path, "d").read() == LastSeen("other", 1, 1)


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", '{"c": 1}', '{"c": {"id": "a"}}', '{"c": {"id": 1, "revision": "x"}}'],
)
def test_a_note_that_nobody_can_read_is_none_and_is_replaced(tmp_path: Path, text: str):
    (tmp_path / "store-seen.json").write_text(text)
    note = LastSeenNote(tmp_path, "c")
    assert note.read() is None
    note.write(SEEN)
    assert note.read() == SEEN


def test_a_note_that_cannot_be_written_is_told(tmp_path: Path, caplog):
    LastSeenNote(tmp_path / "gone", "c").write(SEEN)
    assert "note about the store not written" in caplog.text


def test_two_notes_at_once_are_written_one_after_the_other(tmp_path: Path, monkeypatch):
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
    note = LastSeenNote(tmp_path, "c")
    with ThreadPoolExecutor(2) as threads:
        for writing in [threads.submit(note.write, LastSeen("id", n, 1)) for n in (1, 1000)]:
            writing.result()
    assert len(inside) == 2
    assert note.read() == LastSeen("id", 1000, 1)


def test_a_note_of_a_newer_skysail_may_say_more(tmp_path: Path):
    note = {"c": {"id": "id", "revision": 7, "epoch": 2, "more": 1}}
    (tmp_path / "store-seen.json").write_text(json.dumps(note))
    assert LastSeenNote(tmp_path, "c").read() == SEEN


def test_a_claimant_is_known_by_the_lock_that_it_holds(tmp_path: Path):
    place, other = tmp_path / "a", tmp_path / "b"
    place.mkdir()
    (place / LOCK_FILE).touch()
    first = claimant(place)
    assert claimant(place).locks == first.locks
    assert len(first.locks) == 1
    assert str(os.getpid()) in first.place
    assert str(place) in first.place
    shutil.copytree(place, other)
    assert claimant(other).locks != first.locks
    place.rename(tmp_path / "moved")
    assert claimant(tmp_path / "moved").locks == first.locks


def test_a_claimant_with_a_lease_is_known_by_that_too(tmp_path: Path):
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir()
        (directory / LOCK_FILE).touch()
    here, there = (claimant(directory, "uid") for directory in directories)
    assert set(here.locks) & set(there.locks) == {"lease uid"}
    assert set(here.locks) & set(claimant(directories[0]).locks)

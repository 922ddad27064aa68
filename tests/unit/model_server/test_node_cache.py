"""The node cache against a naive reference, and where its locks decide."""

import errno
import hashlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skysail_common import blob_files
from skysail_common.artifacts import Blob
from skysail_common.errors import FailedPrecondition, SkysailError
from skysail_model_server import node_cache
from skysail_model_server.node_cache import NodeCache
from skysail_testing.examples import examples

CONTENTS = [bytes([65 + index]) * size for index, size in enumerate((0, 10, 20, 30, 40, 50, 60))]
"""Contents of the blobs, each with its own size."""

BLOBS = [
    Blob(path=f"data/{index}", sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    for index, content in enumerate(CONTENTS)
]
MAX_BYTES = 100
NUMBERS = st.integers(0, len(BLOBS) - 1)


class Node:
    """One cache whose replicas fetch from memory, and count what they fetch."""

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        self.directory = directory
        # The clock runs close to that of the file system, which also notes reads.
        self.now_ns = time.time_ns()
        self.cache = NodeCache(directory / "cache", max_bytes, lambda: self.now_ns)
        self.num_fetched_bytes = 0

    def tick(self) -> None:
        self.now_ns += 10**9

    def start(self, name: str, numbers: list[int]) -> Path:
        """Lay out the blobs for a replica, as the download does."""
        replica = self.directory / name
        replica.mkdir()
        targets = {number: replica / str(number) for number in numbers}
        self.cache.make_room([BLOBS[number] for number in numbers])
        for number, target in targets.items():
            self.tick()
            if not self.cache.place(BLOBS[number], target):
                self.fetch(number, target)
        return replica

    def fetch(self, number: int, target: Path) -> None:
        partial = self.cache.lock(BLOBS[number])
        assert partial is not None
        with partial:
            rest = CONTENTS[number][partial.size_bytes :]
            self.num_fetched_bytes += len(rest)
            partial.append(rest)
            assert self.cache.publish(partial, BLOBS[number], target)

    def file(self, number: int) -> Path:
        return self.directory / "cache" / "blobs" / BLOBS[number].sha256

    def partial(self, number: int) -> Path:
        return self.directory / "cache" / "partial" / BLOBS[number].sha256


@dataclass
class Entry:
    """What the reference knows of a file in the cache."""

    size_bytes: int
    is_partial: bool = False
    is_damaged: bool = False


class Reference:
    """What the cache should do, with lists and loops."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        """Blobs of the cache, the least recently used first."""
        self.replicas: dict[str, list[int]] = {}
        self.num_fetched_bytes = 0

    def used(self) -> set[int]:
        return {number for numbers in self.replicas.values() for number in numbers}

    def put(self, number: int, entry: Entry) -> None:
        self.entries.pop(number, None)
        self.entries[number] = entry

    def start(self, name: str, numbers: list[int]) -> None:
        wanted = sum(len(CONTENTS[number]) for number in numbers)
        for number in list(self.entries):
            others = {each: found for each, found in self.entries.items() if each not in numbers}
            if wanted + sum(found.size_bytes for found in others.values()) <= MAX_BYTES:
                break
            if number not in self.used() and number not in numbers:
                del self.entries[number]
        for number in numbers:
            size = len(CONTENTS[number])
            found = self.entries.get(number)
            if found is None or found.is_damaged:
                self.num_fetched_bytes += size
            elif found.is_partial:
                self.num_fetched_bytes += size - found.size_bytes
            self.put(number, Entry(size))
        self.replicas[name] = numbers


class CacheMachine(RuleBasedStateMachine):
    """Replicas come and go, files are damaged, fetches break off: cache and reference agree."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.node = Node(Path(self.temporary.name))
        self.reference = Reference()
        self.num_started = 0

    def teardown(self) -> None:
        self.temporary.cleanup()

    @rule(numbers=st.lists(NUMBERS, unique=True, min_size=1, max_size=4))
    def start_replica(self, numbers: list[int]) -> None:
        self.num_started += 1
        name = f"replica-{self.num_started}"
        self.node.start(name, numbers)
        self.reference.start(name, numbers)

    @precondition(lambda self: self.reference.replicas)
    @rule(data=st.data())
    def stop_replica(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.reference.replicas)))
        shutil.rmtree(self.node.directory / name)
        del self.reference.replicas[name]

    @rule(number=st.integers(1, len(BLOBS) - 1), is_cut=st.booleans())
    def damage(self, number: int, is_cut: bool) -> None:
        entry = self.reference.entries.get(number)
        if entry is None or entry.is_partial or number in self.reference.used():
            return
        file = self.node.file(number)
        used_ns = file.stat().st_atime_ns
        content = bytes(len(CONTENTS[number]) - is_cut)
        file.chmod(0o644)
        file.write_bytes(content)
        os.utime(file, ns=(used_ns, file.stat().st_mtime_ns))
        entry.size_bytes, entry.is_damaged = len(content), True

    @rule(number=NUMBERS, half=st.booleans())
    def break_fetch(self, number: int, half: bool) -> None:
        if number in self.reference.entries:
            return
        self.node.tick()
        part = CONTENTS[number][: len(CONTENTS[number]) // (2 if half else 1)]
        partial = self.node.cache.lock(BLOBS[number])
        assert partial is not None
        with partial:
            partial.append(part)
        os.utime(self.node.partial(number), ns=(self.node.now_ns,) * 2)
        self.reference.put(number, Entry(len(part), is_partial=True))

    @invariant()
    def agree(self) -> None:
        entries = self.reference.entries
        for number in range(len(BLOBS)):
            is_partial = number in entries and entries[number].is_partial
            assert self.node.partial(number).exists() == is_partial
            assert self.node.file(number).exists() == (number in entries and not is_partial)
        assert self.node.num_fetched_bytes == self.reference.num_fetched_bytes
        for name, numbers in self.reference.replicas.items():
            for number in numbers:
                file = self.node.directory / name / str(number)
                assert file.read_bytes() == CONTENTS[number]
                assert not file.stat().st_mode & 0o222


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=examples(60), stateful_step_count=20)


@pytest.fixture
def node(tmp_path) -> Node:
    return Node(tmp_path)


def test_replicas_share_one_file(node: Node):
    first, second = node.start("first", [3]), node.start("second", [3])
    assert (first / "3").samefile(second / "3")
    assert node.num_fetched_bytes == len(CONTENTS[3])


def test_a_blob_that_a_replica_uses_survives_its_eviction_by_name(node: Node):
    replica = node.start("first", [6])
    node.file(6).unlink()
    assert (replica / "6").read_bytes() == CONTENTS[6]


def test_live_replicas_may_exceed_the_size_of_the_cache(node: Node):
    node.start("first", [5, 6])
    replica = node.start("second", [3, 4])
    assert (replica / "4").read_bytes() == CONTENTS[4]
    assert node.file(5).exists()


def test_a_broken_fetch_continues_at_its_last_byte(node: Node):
    partial = node.cache.lock(BLOBS[4])
    assert partial is not None
    with partial:
        partial.append(CONTENTS[4][:15])
    assert node.cache.partial_bytes(BLOBS[4]) == 15
    node.start("first", [4])
    assert node.num_fetched_bytes == len(CONTENTS[4]) - 15


def test_a_corrupt_part_is_dropped(node: Node, tmp_path):
    partial = node.cache.lock(BLOBS[4])
    assert partial is not None
    with partial:
        partial.append(bytes(len(CONTENTS[4])))
        assert not node.cache.publish(partial, BLOBS[4], tmp_path / "4")
        assert partial.size_bytes == 0
    assert not (tmp_path / "4").exists()
    node.start("first", [4])


def test_a_blob_longer_than_announced_is_refused(node: Node):
    partial = node.cache.lock(BLOBS[2])
    assert partial is not None
    with partial, pytest.raises(SkysailError, match="more than its 20 bytes"):
        partial.append(bytes(21))


def test_two_processes_never_fetch_one_blob_at_once(node: Node):
    holder = node.cache.lock(BLOBS[2])
    assert holder is not None
    with holder:
        assert node.cache.lock(BLOBS[2]) is None


def test_the_lock_of_a_completed_fetch_is_of_no_use(node: Node, tmp_path, monkeypatch):
    """A process that opened the partial file just before its completion does not write into it."""
    holder = node.cache.lock(BLOBS[2])
    assert holder is not None
    flock = node_cache.fcntl.flock

    def complete_first(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(node_cache.fcntl, "flock", flock)
        with holder:
            holder.append(CONTENTS[2])
            assert node.cache.publish(holder, BLOBS[2], tmp_path / "2")
        flock(descriptor, operation)

    monkeypatch.setattr(node_cache.fcntl, "flock", complete_first)
    assert node.cache.lock(BLOBS[2]) is None
    assert node.cache.place(BLOBS[2], tmp_path / "again")


def test_a_blob_that_another_process_has_just_completed_is_not_fetched_again(node: Node):
    node.start("first", [2])
    assert node.cache.lock(BLOBS[2]) is None
    assert not node.partial(2).exists()


def test_a_fetch_under_way_is_never_evicted(node: Node):
    partial = node.cache.lock(BLOBS[2])
    assert partial is not None
    with partial:
        partial.append(CONTENTS[2])
        node.start("first", [3, 4, 6])
        assert node.partial(2).exists()


def test_only_an_unsealed_blob_is_hashed(node: Node, monkeypatch, tmp_path):
    node.start("first", [3])
    hashed = []
    sha256 = blob_files.file_sha256
    monkeypatch.setattr(blob_files, "file_sha256", lambda file: hashed.append(file) or sha256(file))
    node.start("second", [3])
    assert hashed == []
    os.utime(node.file(3))
    node.start("third", [3])
    node.start("fourth", [3])
    assert len(hashed) == 1


def test_a_file_system_without_hard_links_gets_copies(node: Node, monkeypatch):
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first, second = node.start("first", [3]), node.start("second", [3])
    assert not (first / "3").samefile(second / "3")
    assert (second / "3").read_bytes() == CONTENTS[3]
    assert node.num_fetched_bytes == len(CONTENTS[3])


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(FailedPrecondition, match=r"cannot use the blobs in .*cache: .*cache-dir"):
        NodeCache(tmp_path / "cache", 1)

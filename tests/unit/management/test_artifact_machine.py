"""The store of artifacts against a naive reference, over random uploads, restarts and sweeps."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skysail_common.errors import ArtifactNotFound, Conflict
from skysail_management.artifacts.blobs import BlobId, BlobStart
from skysail_management.artifacts.store import ArtifactStore
from skysail_testing.clock import FakeClock
from skysail_testing.examples import examples
from skysail_testing.management_parts import chunked, make_manifest, sha256_of

CONTENTS = [bytes([number]) * (1 + 700 * number) for number in range(5)]
NAMES = [sha256_of(content) for content in CONTENTS]
BLOB_S, ARTIFACT_S = 7200.0, 600.0

numbers = st.integers(0, len(CONTENTS) - 1)
subsets = st.sets(numbers, min_size=1).map(sorted)
shares = st.floats(0, 1)


class Store(RuleBasedStateMachine):
    """A store, and what it must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp()) / "artifacts"
        self.clock = FakeClock()
        self.store = ArtifactStore(self.directory, 10**6, self.clock)
        self.stored: set[int] = set()
        self.ends: dict[int, list[float]] = {number: [] for number in range(len(CONTENTS))}
        self.partial: dict[int, list[int]] = {number: [] for number in range(len(CONTENTS))}
        self.artifacts: dict[str, list[int]] = {}
        self.artifact_ends: dict[str, list[float]] = {}
        self.kept: set[str] = set()

    def teardown(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.directory.parent)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def reserve(self, number: int) -> None:
        self.ends[number].append(self.clock() + BLOB_S)

    def find(self, wanted: Sequence[int]) -> dict[int, int]:
        """Ask for blobs, and compare the answer."""
        blobs = [BlobId(NAMES[number], len(CONTENTS[number])) for number in wanted]
        found = self.run(self.store.blobs.find(blobs))
        missing = {number: found[NAMES[number]] for number in wanted if NAMES[number] in found}
        assert missing == {
            number: max(self.partial[number], default=0)
            for number in wanted
            if number not in self.stored
        }
        for number in set(wanted) & self.stored:
            self.reserve(number)
        return missing

    def send(self, number: int, offset: int, end: int) -> None:
        """Upload bytes of a blob, and break if they do not reach its end."""
        content = CONTENTS[number]

        async def parts() -> AsyncIterator[BlobStart | bytes]:
            yield BlobStart(BlobId(NAMES[number], len(content)), offset)
            for begin in range(offset, end, 500):
                yield content[begin : min(end, begin + 500)]
            if end < len(content):
                raise ConnectionError

        try:
            self.run(self.store.blobs.add(parts()))
        except ConnectionError:
            assert end < len(content)
        else:
            assert end == len(content)

    @rule(number=numbers, share=shares)
    def upload(self, number: int, share: float) -> None:
        size = len(CONTENTS[number])
        end = round(share * size)
        self.send(number, 0, end)
        self.note(number, end)

    def note(self, number: int, end: int) -> None:
        if end == len(CONTENTS[number]):
            self.stored.add(number)
            self.partial[number].clear()
            self.reserve(number)
        elif end:
            self.partial[number].append(end)

    @precondition(lambda self: any(self.partial.values()))
    @rule(data=st.data(), share=shares)
    def resume(self, data: st.DataObject, share: float) -> None:
        number = data.draw(st.sampled_from([key for key, sizes in self.partial.items() if sizes]))
        offset = max(self.partial[number])
        self.partial[number].remove(offset)
        end = offset + round(share * (len(CONTENTS[number]) - offset))
        self.send(number, offset, end)
        self.note(number, end)

    @rule(number=numbers)
    def resume_too_late(self, number: int) -> None:
        offset = max(self.partial[number], default=0) + 1
        if offset < len(CONTENTS[number]):
            with pytest.raises(Conflict):
                self.send(number, offset, len(CONTENTS[number]))

    @rule(wanted=subsets)
    def ask(self, wanted: list[int]) -> None:
        self.find(wanted)

    @rule(wanted=subsets)
    def upload_all(self, wanted: list[int]) -> None:
        for number, offset in self.find(wanted).items():
            self.send(number, offset, len(CONTENTS[number]))
            self.note(number, len(CONTENTS[number]))

    @rule(wanted=subsets)
    def register(self, wanted: list[int]) -> None:
        files = {f"data/{number}": CONTENTS[number] for number in wanted}
        manifest = make_manifest(files, loader="x")
        sha256 = sha256_of(manifest)
        if not set(wanted) <= self.stored:
            with pytest.raises(ArtifactNotFound):
                self.run(self.store.add(sha256, chunked(manifest, 10_000)))
            return
        self.run(self.store.add(sha256, chunked(manifest, 10_000)))
        for number in wanted:
            del self.ends[number][:1]
        self.artifacts[sha256] = wanted
        with self.store.pin(sha256):
            self.kept.add(sha256)

    @rule(wanted=subsets)
    def upload_an_artifact_and_leave(self, wanted: list[int]) -> None:
        if set(wanted) <= self.stored:
            files = {f"data/{number}": CONTENTS[number] for number in wanted}
            manifest = make_manifest(files, loader="y")
            sha256 = sha256_of(manifest)
            self.run(self.store.add(sha256, chunked(manifest, 10_000)))
            self.artifacts[sha256] = wanted
            self.artifact_ends.setdefault(sha256, []).append(self.clock() + ARTIFACT_S)
            for number in wanted:
                del self.ends[number][:1]

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def unregister(self, data: st.DataObject) -> None:
        self.kept.remove(data.draw(st.sampled_from(sorted(self.kept))))

    @rule(seconds=st.sampled_from([1.0, 700.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        self.store.sweep(self.kept)
        now = self.clock()
        for reserved in (self.ends, self.artifact_ends):
            for ends in reserved.values():
                ends[:] = [end for end in ends if end > now]
        for sha256 in list(self.artifacts):
            if sha256 not in self.kept and not self.artifact_ends.get(sha256):
                del self.artifacts[sha256]
        named = {number for wanted in self.artifacts.values() for number in wanted}
        self.stored = {number for number in self.stored if number in named or self.ends[number]}

    @rule()
    def restart(self) -> None:
        self.store = ArtifactStore(self.directory, 10**6, self.clock)
        named = {number for wanted in self.artifacts.values() for number in wanted}
        self.artifact_ends.clear()
        for number in range(len(CONTENTS)):
            is_unnamed = number in self.stored and number not in named
            self.ends[number] = [self.clock() + BLOB_S] if is_unnamed else []

    @rule(data=st.data())
    def corrupt(self, data: st.DataObject) -> None:
        if self.stored:
            number = data.draw(st.sampled_from(sorted(self.stored)))
            path = self.directory / "blobs" / NAMES[number]
            path.unlink()
            path.write_bytes(b"!" * len(CONTENTS[number]))
            assert number in self.run(self.found_corrupt(number))
            self.stored.remove(number)
            self.reserve(number)

    async def found_corrupt(self, number: int) -> set[int]:
        blob = BlobId(NAMES[number], len(CONTENTS[number]))
        return {number} if await self.store.blobs.find([blob]) else set()

    @invariant()
    def holds_exactly_what_it_must(self) -> None:
        blobs = {path.name for path in (self.directory / "blobs").iterdir()}
        assert blobs == {NAMES[number] for number in self.stored}
        artifacts = {path.name for path in self.directory.iterdir() if path.is_file()}
        assert artifacts == set(self.artifacts)
        sizes = sorted(path.stat().st_size for path in (self.directory / "partial").iterdir())
        assert sizes == sorted(size for each in self.partial.values() for size in each)
        for number in self.stored:
            with self.store.blobs.open(NAMES[number]) as file:
                assert file.read() == CONTENTS[number]


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)

"""A store in memory, with the rules of the real scripts and injected failures."""

import asyncio
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from skysail_common.errors import Conflict, StoreLost
from skysail_common.store import Contents, Owner, RecordChange, Stored, StoreState, Table
from skysail_common.store.store import lost_text, taken_by


@dataclass
class MemoryData:
    """The content of a server; replaced as a whole after a loss."""

    id: str = ""
    epoch: int = 0
    claim: int = 0
    revision: int = 0
    secret: str = ""
    owner: Owner | None = None
    renewed_s: float = 0.0
    rows: dict[Table, dict[str, Stored]] = field(
        default_factory=lambda: {table: {} for table in Table}
    )


class MemoryServer:
    """A server for several stores."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.data = MemoryData()
        self.clock = clock
        self.num_ids = 0
        self.num_claims = 0

    def flush(self) -> None:
        """Lose everything."""
        self.data = MemoryData()

    def backup(self) -> MemoryData:
        return copy.deepcopy(self.data)

    def restore(self, data: MemoryData) -> None:
        """Restore an earlier backup."""
        self.data = copy.deepcopy(data)


class MemoryStore:
    """A store in memory, with its own server; tests can make it fail or hang."""

    def __init__(self, server: MemoryServer | None = None) -> None:
        self.server = server or MemoryServer()
        self.id = ""
        self.epoch = 0
        self.revision = 0
        self._claim = 0
        self._owner = Owner(("memory",), "here", "memory", "now")
        self._secret = ""
        self.num_commits = 0
        self.fails_with: list[Exception] = []
        """Errors of the next calls."""
        self.loses_answer_with: list[Exception] = []
        """Errors that the next commits raise after they took effect."""
        self.gate: asyncio.Event | None = None
        """Gate that all answers wait for."""
        if server is None:
            self._own(self._owner, self._state(), 0)

    @property
    def rows(self) -> dict[Table, dict[str, Stored]]:
        return self.server.data.rows

    def _state(self) -> StoreState:
        data = self.server.data
        return StoreState(
            data.id,
            data.epoch,
            data.revision,
            sum(len(rows) for rows in data.rows.values()),
            data.owner,
            str(data.renewed_s),
            self.server.clock() - data.renewed_s,
        )

    async def look(self) -> StoreState:
        self._maybe_fail()
        state = self._state()
        await self._answered()
        return state

    async def take(self, owner: Owner, state: StoreState, above_epoch: int = 0) -> None:
        self._maybe_fail()
        present = self._state()
        fence = (state.id, state.epoch, state.renewed)
        if (present.id, present.epoch, present.renewed) != fence:
            await self._answered()
            raise Conflict("another management takes the store at the same time")
        self._own(owner, state, above_epoch)
        await self._answered()

    def _own(self, owner: Owner, state: StoreState, above_epoch: int) -> None:
        data = self.server.data
        if not data.id:
            self.server.num_ids += 1
            data.id = f"store{self.server.num_ids}"
            data.secret = f"secret{self.server.num_ids}"
        data.epoch = max(state.epoch, above_epoch) + 1
        self.server.num_claims += 1
        data.claim = self._claim = self.server.num_claims
        data.owner, data.renewed_s = owner, self.server.clock()
        self.id, self.epoch, self.revision = data.id, data.epoch, data.revision
        self._owner, self._secret = owner, data.secret

    async def secret(self) -> str:
        return self.server.data.secret

    async def renew(self) -> None:
        self._maybe_fail()
        self._check()
        self.server.data.renewed_s = self.server.clock()
        await self._answered()

    async def release(self) -> None:
        self._maybe_fail()
        self._check()
        self.server.data.owner, self.server.data.renewed_s = None, 0.0
        self.id, self.epoch = "", 0
        await self._answered()

    async def read(self) -> Contents:
        self._maybe_fail()
        if self.id:
            self._check()
        data = self.server.data
        found = Contents(data.revision, {table: dict(rows) for table, rows in data.rows.items()})
        await self._answered()
        return found

    async def commit(self, changes: Sequence[RecordChange]) -> int:
        self._maybe_fail()
        self._check()
        for change in changes:
            stored = self.rows[change.table].get(change.name)
            if (stored.revision if stored else 0) != change.expected_revision:
                await self._answered()
                raise Conflict(f"cannot change {change.name!r}: another client changed it first")
        data = self.server.data
        data.revision += 1
        self.num_commits += 1
        for change in changes:
            if change.json is None:
                data.rows[change.table].pop(change.name, None)
            else:
                data.rows[change.table][change.name] = Stored(data.revision, change.json)
        revision = data.revision
        await self._answered()
        if self.loses_answer_with:
            raise self.loses_answer_with.pop(0)
        self.revision = max(self.revision, revision)
        return revision

    async def restore(self, contents: Contents) -> None:
        self._maybe_fail()
        data = self.server.data
        if data.id not in ("", self.id):
            raise StoreLost(lost_text(self.id, self.revision, data.id, data.revision))
        self._check_claim(data)
        self.revision = max(contents.revision, self.revision)
        self.server.data = MemoryData(
            self.id,
            self.epoch,
            self._claim,
            self.revision,
            self._secret,
            self._owner,
            self.server.clock(),
            {table: dict(rows) for table, rows in contents.tables.items()},
        )
        await self._answered()

    def _check(self) -> None:
        data = self.server.data
        if data.id != self.id:
            raise StoreLost(lost_text(self.id, self.revision, data.id, data.revision))
        self._check_claim(data)
        if data.epoch < self.epoch or data.revision < self.revision:
            raise StoreLost(lost_text(self.id, self.revision, data.id, data.revision))
        self.revision = max(self.revision, data.revision)

    def _check_claim(self, data: MemoryData) -> None:
        is_other = data.epoch == self.epoch and data.claim != self._claim
        if data.epoch > self.epoch or is_other:
            raise taken_by(data.owner)

    async def _answered(self) -> None:
        # A real store answers after at least one turn of the loop.
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()

    def _maybe_fail(self) -> None:
        if self.fails_with:
            raise self.fails_with.pop(0)

"""The store for unit tests: what `Records` needs of it, in memory."""

import asyncio
from collections.abc import Sequence

from skysail_common.errors import Conflict
from skysail_common.store import Change, Stored, Table


class MemoryStore:
    """Holds records with revisions; may be told to fail, or to hang."""

    def __init__(self) -> None:
        self.rows: dict[Table, dict[str, Stored]] = {table: {} for table in Table}
        self.revision = 0
        self.num_commits = 0
        self.fails_with: list[Exception] = []
        """Each read or commit raises the first of these and removes it."""
        self.loses_answer_with: list[Exception] = []
        """Each commit raises the first of these and removes it, after it was made."""
        self.gate: asyncio.Event | None = None
        """Answers are held back until it is set."""

    async def read(self, table: Table) -> dict[str, Stored]:
        self._maybe_fail()
        found = dict(self.rows[table])
        await self._answered()
        return found

    async def commit(self, changes: Sequence[Change]) -> int:
        self._maybe_fail()
        for change in changes:
            stored = self.rows[change.table].get(change.name)
            if (stored.revision if stored else 0) != change.expected_revision:
                await self._answered()
                raise Conflict(f"{change.name!r} was changed by another")
        self.revision += 1
        self.num_commits += 1
        for change in changes:
            if change.json is None:
                self.rows[change.table].pop(change.name, None)
            else:
                self.rows[change.table][change.name] = Stored(self.revision, change.json)
        revision = self.revision
        await self._answered()
        if self.loses_answer_with:
            raise self.loses_answer_with.pop(0)
        return revision

    async def _answered(self) -> None:
        # A real one answers after at least a turn of the loop.
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()

    def _maybe_fail(self) -> None:
        if self.fails_with:
            raise self.fails_with.pop(0)

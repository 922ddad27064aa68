"""Managements that contend for one store: real ownership code on in-memory data."""

import asyncio
from typing import cast

from skysail_common.errors import SkysailError
from skysail_common.store import Owner, Store
from skysail_management.ownership.acquisition import Leftovers, StoreAcquisition
from skysail_management.ownership.keeper import StoreKeeper
from skysail_management.ownership.store_checkpoint import CheckpointFile, StoreCheckpoint
from skysail_management.records import ModelRecord, Records
from skysail_testing.controllable_servers import ControllableServer
from skysail_testing.virtual_time import now

MODEL = "m"


class MemoryNote:
    """The checkpoint file of a data directory, in memory."""

    def __init__(self) -> None:
        self.seen: StoreCheckpoint | None = None

    def read(self) -> StoreCheckpoint | None:
        return self.seen

    def write(self, seen: StoreCheckpoint) -> None:
        self.seen = seen


class Place:
    """A data directory on a machine, with the lock or lease of its managements."""

    def __init__(self, lock: str, num_artifacts: int = 0) -> None:
        self.lock = lock
        self.note = MemoryNote()
        self.leftovers = Leftovers(num_artifacts, 0)

    async def find_leftovers(self) -> Leftovers:
        return self.leftovers


class Contender:
    """A process of management."""

    def __init__(self, place: Place, server: ControllableServer, accepted_loss: str = "") -> None:
        self.place = place
        self.health: list[bool] = []
        """All changes of health."""
        self.store: Store = server.connect()
        self.records = Records(self.store)
        note = cast(CheckpointFile, place.note)
        self.opening = StoreAcquisition(
            self.store,
            Owner((place.lock,), "host", f"place of {place.lock}", "now"),
            note,
            place.find_leftovers,
            accepted_loss,
            now,
        )
        self.keeper = StoreKeeper(self.store, note, self._is_back, self._set_health)

    def _is_back(self) -> None:
        self.records.mark_stale()

    async def _set_health(self, is_healthy: bool) -> None:
        self.health.append(is_healthy)

    async def start(self) -> None:
        """Become the owner, or raise the reason."""
        assert await self.opening.open(0.0, asyncio.Event())
        await self.records.load()

    @property
    def value(self) -> str:
        """The content of the mirror."""
        record = self.records.models.get(MODEL)
        return record.current_version if record else ""

    async def commit(self, value: str) -> None:
        record = ModelRecord(name=MODEL, current_version=value)
        await self.records.commit([self.records.models.put(MODEL, record)])


async def refusal_of(contender: Contender) -> SkysailError | None:
    """Start a contender; return the refusal, or None if it became the owner."""
    try:
        await contender.start()
    except SkysailError as error:
        return error
    return None

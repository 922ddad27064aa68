"""A state machine of ownership: managements start, crash, freeze and write; the store loses data."""

import asyncio
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from skysail_common.errors import FailedPrecondition, StoreLost, StoreTaken
from skysail_common.store.owner import LEASE_S
from skysail_management.ownership.acquisition import NEVER_SEEN
from skysail_testing.controllable_servers import ControllableServer
from skysail_testing.ownership import Contender, Place, refusal_of

_LOCKS = 3
PODS = 2
"""Managements that share a Lease: the next may start while the last is frozen."""


class Ownership(RuleBasedStateMachine):
    """Several managements contend for one server, which accepts commits of at most one.

    The model tracks the last owner. A loss of data restores an earlier owner, because `owner`
    belongs to the data. A frozen process is one that takes no steps: each rule may pick any
    process that has not ended, however long it was silent.
    """

    processes = Bundle("processes")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.server: ControllableServer = self.run(self.make_server())
        self.places = [Place(f"lock {number}", num_artifacts=1) for number in range(_LOCKS)]
        self.pods = Place("lease", num_artifacts=1)
        self.holders: dict[str, Contender] = {}
        """Live process that holds the lock of each place."""
        self.owner: Contender | None = None
        self.value = ""
        """Last acknowledged value in the present data."""
        self.backups: list[tuple[Any, Contender | None, str]] = []
        self.num_values = 0
        self.ended: set[Contender] = set()

    async def make_server(self) -> ControllableServer:
        raise NotImplementedError

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "server"):
            self.run(self.server.close())
        self.loop.close()

    def _started(self, place: Place, accepts: bool) -> Contender | None:
        state = self.run(self.server.connect().look())
        seen = place.note.seen
        accepted = (seen.name if accepts else "") if seen else NEVER_SEEN
        contender = Contender(place, self.server, accepted)
        error = self.run(refusal_of(contender))
        if error is None:
            is_lost = seen and (state.id != seen.id or state.revision < seen.revision)
            assert not is_lost or accepted, "lost data are taken for the truth"
            assert state.holder(contender.opening._owner) is None
            self.owner = contender
            assert contender.value == self.value
            return contender
        assert isinstance(error, StoreTaken | StoreLost), error
        if isinstance(error, StoreTaken):
            assert state.owner is not None
            assert place.lock not in state.owner.locks
            assert abs(state.idle_s) <= LEASE_S
        return None

    @initialize(target=processes)
    def first(self) -> Any:
        return self.start(0, False)

    @rule(target=processes, number=st.integers(0, _LOCKS - 1), accepts=st.booleans())
    def start(self, number: int, accepts: bool) -> Any:
        place = self.places[number]
        if place.lock in self.holders:
            return multiple()
        contender = self._started(place, accepts)
        if contender is None:
            return multiple()
        self.holders[place.lock] = contender
        return contender

    @rule(target=processes, accepts=st.booleans())
    def lead(self, accepts: bool) -> Any:
        # Kubernetes gave the lease to another pod; the last holder may be frozen and resume later.
        contender = self._started(self.pods, accepts)
        return multiple() if contender is None else contender

    @rule(process=consumes(processes), is_orderly=st.booleans())
    def end(self, process: Contender, is_orderly: bool) -> None:
        if is_orderly:
            self.run(process.opening.close())
        if self.holders.get(process.place.lock) is process:
            del self.holders[process.place.lock]
        self.ended.add(process)

    @rule(process=processes)
    def renew(self, process: Contender) -> None:
        try:
            self.run(process.keeper.check())
        except StoreTaken:
            assert process is not self.owner
            return
        assert process.keeper.problem or process is self.owner

    @precondition(lambda self: self.owner and self.owner not in self.ended)
    @rule(times=st.integers(1, 3))
    def work(self, times: int) -> None:
        # Most failures need earlier commits, so this rule makes commits frequent.
        for _ in range(times):
            assert self.owner is not None
            self.commit(self.owner)

    @rule(process=processes)
    def commit(self, process: Contender) -> None:
        self.num_values += 1
        value, before = str(self.num_values), process.value
        # The machine has one writer, so that no conflict occurs.
        try:
            self.run(process.commit(value))
        except (StoreTaken, StoreLost):
            assert process.value == before, "lost data reached the mirror"
            return
        assert process is self.owner, "a former owner wrote"
        assert before == self.value, "the owner wrote over what it had not seen"
        self.value = value

    @rule(process=processes)
    def restore(self, process: Contender) -> None:
        value = process.value
        try:
            self.run(process.keeper.restore(process.records))
        except FailedPrecondition:
            return
        self.owner, self.value = process, value

    @rule(seconds=st.sampled_from([1.0, LEASE_S - 1, LEASE_S + 1, 100.0]))
    def pass_time(self, seconds: float) -> None:
        self.run(self.server.pass_time(seconds))

    @precondition(lambda self: not self.backups or self.value != self.backups[-1][2])
    @rule()
    def back_up(self) -> None:
        self.backups.append((self.run(self.server.backup()), self.owner, self.value))

    @precondition(lambda self: self.backups)
    @rule(number=st.integers(1, 3))
    def roll_back(self, number: int) -> None:
        backup, self.owner, self.value = self.backups[-min(number, len(self.backups))]
        self.run(self.server.roll_back(backup))

    @rule()
    def flush(self) -> None:
        self.run(self.server.flush())
        self.owner, self.value = None, ""

    @invariant()
    def the_store_holds_the_acknowledged_value(self) -> None:
        tables = self.run(self.server.connect().read()).tables
        rows = [row.json for table in tables.values() for row in table.values()]
        assert (f'"{self.value}"' in "".join(rows)) if self.value else not rows

"""Opens the store: waits until it answers, checks it for lost data, and becomes its owner."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from skysail_common.clock import Clock
from skysail_common.errors import Conflict, SkysailError, StoreLost, StoreTaken, StoreUnavailable
from skysail_common.process.backoff import BackOff
from skysail_common.store import Owner, Store, StoreState
from skysail_common.store.owner import LEASE_S
from skysail_management.ownership.store_checkpoint import CheckpointFile, StoreCheckpoint

log = logging.getLogger(__name__)

NEVER_SEEN = "unseen"
"""Name of the loss if this data directory has no note about the store."""

_MAX_ATTEMPTS = 5
_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 1.0


@dataclass(frozen=True)
class Leftovers:
    """Counts of what would be lost if a store without its data were taken for the truth."""

    num_artifacts: int
    num_replicas: int

    def __bool__(self) -> bool:
        return bool(self.num_artifacts or self.num_replicas)

    def __str__(self) -> str:
        return f"{self.num_artifacts} artifacts and {self.num_replicas} replicas"


class StoreAcquisition:
    """The ownership of a cluster's store, from the wait for it to its release."""

    def __init__(
        self,
        store: Store,
        owner: Owner,
        note: CheckpointFile,
        find_leftovers: Callable[[], Awaitable[Leftovers]],
        accepted_loss: str,
        clock: Clock,
    ) -> None:
        """Starts idle.

        Args:
            store: The store.
            owner: This management.
            note: What the management before saw.
            find_leftovers: Counts what exists of the cluster; asked only if the store lost data.
            accepted_loss: Name of what an operator gives up; empty for nothing.
            clock: Time.
        """
        self._store = store
        self._owner = owner
        self._note = note
        self._find_leftovers = find_leftovers
        self._accepted_loss = accepted_loss
        self._clock = clock
        self._renewed: str | None = None
        """When the owner that was met last had renewed; None if none was."""

    async def open(self, timeout_s: float, stop: asyncio.Event) -> bool:
        """Return True once the store is owned; False if `stop` is set before.

        An owner that does not renew is gone: its lease ends during the wait. One that renews
        lives, and is not waited for.

        Args:
            timeout_s: Longest wait for a store that does not answer, or for the end of a lease.
            stop: Ends the wait.

        Raises:
            StoreUnavailable: it did not answer in time.
            StoreRefused: it does not let us in.
            StoreTaken: another management owns it.
            StoreLost: it lost data of which artifacts or replicas exist.
        """
        end, back_off = self._clock() + timeout_s, BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        told, renewed = "", None
        while True:
            try:
                await self._take()
            except StoreTaken as error:
                if self._clock() >= end or self._renewed is None:
                    raise
                if renewed is None:
                    renewed = self._renewed
                    log.warning(
                        "waiting for the owner of the store", extra={"reason": error.message}
                    )
                elif renewed != self._renewed:
                    raise
            except StoreUnavailable as error:
                if self._clock() >= end:
                    raise
                if error.message != told:
                    told = error.message
                    log.warning("waiting for the store", extra={"reason": told})
            else:
                return True
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), back_off.next_s())
                return False

    async def _take(self) -> None:
        for _ in range(_MAX_ATTEMPTS):
            state = await self._store.look()
            holder = state.holder(self._owner)
            self._renewed = state.renewed if holder is not None else None
            if holder is not None:
                raise StoreTaken(_taken_text(holder, state))
            seen = self._note.read()
            await self._check(state, seen)
            with suppress(Conflict):
                await self._store.take(self._owner, state, seen.epoch if seen else 0)
                self._write_note()
                log.info("store owned", extra={"store": self._store.id, "epoch": self._store.epoch})
                return
        raise StoreTaken("cannot use the store: others take it at the same time; try again")

    def _write_note(self) -> None:
        self._note.write(StoreCheckpoint(self._store.id, self._store.revision, self._store.epoch))

    async def close(self) -> None:
        """Note the last state, and let another management own the store at once."""
        self._write_note()
        try:
            await self._store.release()
        except SkysailError as error:
            # Another management may take the store after the lease.
            log.info("store not released", extra={"reason": error.message})

    async def _check(self, state: StoreState, seen: StoreCheckpoint | None) -> None:
        problem = describe_loss(state, seen)
        if not problem:
            return
        leftovers = await self._find_leftovers()
        if seen is None and not leftovers:
            # A new cluster: nothing ever was in its store.
            return
        name = seen.name if seen else NEVER_SEEN
        if leftovers and self._accepted_loss != name:
            raise StoreLost(
                f"cannot use the store: {problem}, but {leftovers} of the cluster exist; restore "
                "the data of the store, or give up what it held, with these artifacts and replicas, "
                f"by SKYSAIL_MANAGEMENT_ACCEPT_STORE_LOSS={name} (skysail up --accept-store-loss "
                f"{name})"
            )
        log.warning("store taken as it is", extra={"problem": problem, "leftovers": str(leftovers)})


def describe_loss(state: StoreState, seen: StoreCheckpoint | None) -> str:
    """Return the loss of a store since it was seen last; empty without a loss."""
    if seen is None:
        return "" if state.num_records else "it is empty"
    if not state.id:
        return f"it is empty, and was at revision {seen.revision}"
    if state.id != seen.id:
        return f"it is another one ({state.id}, not {seen.id})"
    if state.revision < seen.revision:
        return f"it is older than it was (at revision {state.revision}, not {seen.revision})"
    return ""


def _taken_text(holder: Owner, state: StoreState) -> str:
    left_s = max(0.0, LEASE_S - state.idle_s)
    return (
        f"cannot use the store: another management owns it: {holder}, last heard of "
        f"{max(0.0, state.idle_s):.0f} s ago; stop that one, or give this one another store or "
        f"another name of the cluster (--cluster). If that one is gone, try again in {left_s:.0f} s"
    )

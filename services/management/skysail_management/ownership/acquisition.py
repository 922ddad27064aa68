"""The acquisition of the store: wait for an answer, check for lost data, and become its owner."""

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
"""Name of the loss if this data directory has no checkpoint of the store."""

_MAX_ATTEMPTS = 5
_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 1.0


@dataclass(frozen=True)
class Leftovers:
    """Counts of artifacts and replicas that the acceptance of an empty store would remove."""

    num_artifacts: int
    num_replicas: int

    def __bool__(self) -> bool:
        return bool(self.num_artifacts or self.num_replicas)

    def __str__(self) -> str:
        return f"{self.num_artifacts} artifacts and {self.num_replicas} replicas"


class StoreAcquisition:
    """The ownership of the store of a cluster, from the wait to the release."""

    def __init__(
        self,
        store: Store,
        owner: Owner,
        checkpoint: CheckpointFile,
        find_leftovers: Callable[[], Awaitable[Leftovers]],
        accepted_loss: str,
        clock: Clock,
    ) -> None:
        """Create an idle acquisition.

        Args:
            store: The store.
            owner: The identity of this management.
            checkpoint: The checkpoint of the previous management.
            find_leftovers: Counts artifacts and replicas of the cluster; called only if the store
                lost data.
            accepted_loss: Name of the loss that the operator accepts; empty for none.
            clock: Time.
        """
        self._store = store
        self._owner = owner
        self._checkpoint = checkpoint
        self._find_leftovers = find_leftovers
        self._accepted_loss = accepted_loss
        self._clock = clock
        self._renewed: str | None = None
        """Last renewal of the present owner; None without an owner."""

    async def open(self, timeout_s: float, stop: asyncio.Event) -> bool:
        """Return True when the store is owned, or False if `stop` is set before.

        An owner that stopped renewing is dead, and its lease expires during the wait. An owner that
        renews is alive, and the wait ends with an error.

        Args:
            timeout_s: Longest wait for the store to answer, or for a lease to expire.
            stop: Ends the wait.

        Raises:
            StoreUnavailable: the store did not answer in time.
            StoreRefused: the store rejects management.
            StoreTaken: another management owns the store.
            StoreLost: the store lost data, and artifacts or replicas of the cluster exist.
        """
        end, back_off = self._clock() + timeout_s, BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        logged, renewed = "", None
        while True:
            try:
                await self._take()
            except StoreTaken as error:
                if self._clock() >= end or self._renewed is None:
                    raise
                if renewed is None:
                    renewed = self._renewed
                    log.warning(
                        "store owned by another; waiting for its lease to end",
                        extra={"reason": error.message},
                    )
                elif renewed != self._renewed:
                    raise
            except StoreUnavailable as error:
                if self._clock() >= end:
                    raise
                if error.message != logged:
                    logged = error.message
                    log.warning("store not reachable; waiting", extra={"reason": logged})
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
            seen = self._checkpoint.read()
            await self._check(state, seen)
            with suppress(Conflict):
                await self._store.take(self._owner, state, seen.epoch if seen else 0)
                self._write_checkpoint()
                log.info("store owned", extra={"store": self._store.id, "epoch": self._store.epoch})
                return
        raise StoreTaken("cannot own the store: other managements try at the same time; try again")

    def _write_checkpoint(self) -> None:
        self._checkpoint.write(
            StoreCheckpoint(self._store.id, self._store.revision, self._store.epoch)
        )

    async def close(self) -> None:
        """Write the checkpoint, and release the store for another management."""
        self._write_checkpoint()
        try:
            await self._store.release()
        except SkysailError as error:
            # The lease expires, so that another management can own the store.
            log.info("store not released", extra={"reason": error.message})

    async def _check(self, state: StoreState, seen: StoreCheckpoint | None) -> None:
        problem = describe_loss(state, seen)
        if not problem:
            return
        leftovers = await self._find_leftovers()
        if seen is None and not leftovers:
            # The cluster is new, and its store was always empty.
            return
        name = seen.name if seen else NEVER_SEEN
        if leftovers and self._accepted_loss != name:
            raise StoreLost(
                f"cannot use the store: {problem}, but {leftovers} of the cluster exist; restore "
                "the data of the store, or accept the loss of its data and of these artifacts and "
                f"replicas with SKYSAIL_MANAGEMENT_ACCEPT_STORE_LOSS={name} (skysail up "
                f"--accept-store-loss {name})"
            )
        log.warning("store loss accepted", extra={"problem": problem, "leftovers": str(leftovers)})


def describe_loss(state: StoreState, seen: StoreCheckpoint | None) -> str:
    """Return the data loss of a store since its checkpoint; empty without a loss."""
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
        f"cannot use the store: another management owns it: {holder}, last renewal "
        f"{max(0.0, state.idle_s):.0f} s ago; stop that one, or configure another store or "
        f"another cluster name (--cluster). If that one is dead, try again in {left_s:.0f} s"
    )

"""The renewal of the store ownership, which also detects problems of the store."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from skysail_common.errors import (
    FailedPrecondition,
    SkysailError,
    StoreLost,
    StoreTaken,
    StoreUnavailable,
)
from skysail_common.process.threads import in_thread
from skysail_common.store import Store
from skysail_common.store.owner import RENEW_EVERY_S
from skysail_management.ownership.store_checkpoint import CheckpointFile, StoreCheckpoint
from skysail_management.records import Records

log = logging.getLogger(__name__)


class StoreKeeper:
    """Renews the ownership of the store, and reports the state of the store.

    The log has each failure once, and its end once.
    """

    def __init__(
        self,
        store: Store,
        checkpoint: CheckpointFile,
        on_back: Callable[[], None],
        set_health: Callable[[bool], Awaitable[None]],
    ) -> None:
        """Create an idle keeper.

        Args:
            store: The owned store.
            checkpoint: The checkpoint for the next management.
            on_back: Called when the store recovers, because the mirror may be stale.
            set_health: Called with True when the store accepts changes, and False when it does not.
        """
        self._store = store
        self._checkpoint = checkpoint
        self._on_back = on_back
        self._set_health = set_health
        self._is_healthy: bool | None = None
        self._written = StoreCheckpoint("", 0, 0)
        self._problem: SkysailError | None = None

    @property
    def problem(self) -> str:
        """Cause and fix of a failure of the store; empty without one."""
        return self._problem.message if self._problem else ""

    @property
    def is_reachable(self) -> bool:
        """True if the store answered the last renewal."""
        return not isinstance(self._problem, StoreUnavailable)

    async def keep(self) -> None:
        """Renew the ownership until this is cancelled.

        Raises:
            StoreTaken: another management took over the store.
        """
        while True:
            await self.check()
            await asyncio.sleep(RENEW_EVERY_S)

    async def check(self) -> None:
        """Renew the ownership now, and record the state of the store.

        Raises:
            StoreTaken: another management took over the store.
        """
        try:
            await self._store.renew()
        except StoreTaken:
            raise
        except SkysailError as error:
            self._note_failure(error)
            await self._set_health_once(False)
            return
        self._note_recovery()
        await self._set_health_once(True)
        seen = StoreCheckpoint(self._store.id, self._store.revision, self._store.epoch)
        if seen != self._written:
            self._written = seen
            await in_thread(self._checkpoint.write, seen)

    async def restore(self, records: Records) -> int:
        """Write the mirror into a store that lost data, and return the number of records.

        Raises:
            FailedPrecondition: the store lost nothing.
            StoreTaken: another management owns the store.
            StoreLost: the store has the data of another cluster.
            StoreUnavailable: the store does not answer.
        """
        await self.check()
        if not isinstance(self._problem, StoreLost):
            if self._problem is not None:
                raise type(self._problem)(self._problem.message)
            raise FailedPrecondition("cannot restore the store: it lost no data")
        num_records = await records.restore()
        log.warning("store restored", extra={"records": num_records})
        await self.check()
        return num_records

    async def _set_health_once(self, is_healthy: bool) -> None:
        if is_healthy is not self._is_healthy:
            self._is_healthy = is_healthy
            await self._set_health(is_healthy)

    def _note_failure(self, error: SkysailError) -> None:
        if type(error) is not type(self._problem):
            passes = isinstance(error, StoreUnavailable)
            log.log(
                logging.WARNING if passes else logging.ERROR,
                "store not usable",
                extra={"error": error.message},
            )
        self._problem = error

    def _note_recovery(self) -> None:
        if self._problem is None:
            return
        log.warning("store usable again", extra={"after": self._problem.message})
        self._problem = None
        self._on_back()

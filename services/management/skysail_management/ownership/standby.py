"""A standby: a management that is ready to take over from the leader."""

import asyncio
import logging

from skysail_common.errors import StoreUnavailable
from skysail_common.process.backoff import BackOff
from skysail_common.store import Store
from skysail_management.admin_server import AdminServer

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 5.0


class Standby:
    """The readiness of a standby.

    A rollout with a wrong store password must not look healthy. A pod becomes ready only after the
    store accepted it, and a pod that leads at once becomes ready only when it serves.
    """

    def __init__(self, server: AdminServer, store: Store) -> None:
        """Create a standby that is not ready."""
        self._server = server
        self._store = store
        self._is_standby = asyncio.Event()

    def mark_standby(self) -> None:
        """Record that another management leads."""
        self._is_standby.set()

    async def announce(self) -> None:
        """Report readiness by health, when the store answers and another management leads.

        Raises:
            StoreRefused: the store rejects management.
            FailedPrecondition: another version of Skysail wrote the keys of the store.
        """
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            await self._is_standby.wait()
            try:
                await self._store.look()
            except StoreUnavailable as error:
                log.warning("standby not ready", extra={"reason": error.message})
                await asyncio.sleep(back_off.next_s())
            else:
                await self._server.set_ready()
                return

"""A management that waits for its turn: it is ready once it could take over."""

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
    """The readiness of a management that waits for its turn.

    A roll-out with a wrong password of the store must not look well: a pod is ready only after the
    store has let it in, and the one that leads at once only when it serves.
    """

    def __init__(self, server: AdminServer, store: Store) -> None:
        """A standby, not ready."""
        self._server = server
        self._store = store
        self._is_standby = asyncio.Event()

    def mark_standby(self) -> None:
        """Note that another leads."""
        self._is_standby.set()

    async def announce(self) -> None:
        """Say by health that this management is ready, once the store answers and another leads.

        Raises:
            StoreRefused: the store does not let it in.
            FailedPrecondition: another version of Skysail laid out its keys.
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

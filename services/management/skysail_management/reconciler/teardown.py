"""The teardown of containers, with retries after errors of their manager."""

import asyncio
import logging

from skysail_common.process.backoff import BackOff
from skysail_management.containers.base import ContainerManager

log = logging.getLogger(__name__)

_LOG_TAIL_LINES = 40
_RETRY_S = 1.0
_MAX_RETRY_S = 30.0


async def stop_until_gone(
    manager: ContainerManager, container_id: str, drain_timeout_s: float
) -> None:
    """Stop a container, with retries after each failure, and return when it is gone."""
    back_off = BackOff(_RETRY_S, _MAX_RETRY_S)
    while True:
        try:
            await manager.stop(container_id, drain_timeout_s)
        except Exception as error:
            log.warning(
                "replica not stopped",
                extra={"container": container_id, "error": repr(error)},
            )
            await asyncio.sleep(back_off.next_s())
        else:
            return


async def read_log_tail(manager: ContainerManager, container_id: str) -> str:
    """Return the last lines of a container's log; empty if it cannot be read."""
    try:
        lines = manager.logs(container_id, _LOG_TAIL_LINES, follow=False)
        return "\n".join([line async for line in lines])
    except Exception as error:
        log.warning("log not read", extra={"container": container_id, "error": repr(error)})
        return ""

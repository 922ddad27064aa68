"""The preparation of a model version, bounded in time and ended by an undeploy."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from skysail_management.containers.base import (
    ContainerManager,
    PrepareFailed,
    Progress,
    VersionSpec,
)


async def prepare_while_wanted(
    manager: ContainerManager,
    spec: VersionSpec,
    progress: Progress,
    timeout_s: float,
    unwanted: Coroutine[Any, Any, None],
    *,
    verifies: bool,
) -> bool:
    """Prepare a version and return True, or return False after an undeploy.

    Args:
        manager: Prepares it.
        spec: The version.
        progress: Called with lines of the log.
        timeout_s: Longest time, in seconds.
        unwanted: Returns when the version is no longer wanted.
        verifies: See `ContainerManager.prepare`.

    Raises:
        PrepareFailed: the environment or image cannot be built, or not in time.
        ContainerManagerUnavailable: the engine does not answer.
    """
    work = asyncio.ensure_future(manager.prepare(spec, progress, verifies=verifies))
    gone = asyncio.ensure_future(unwanted)
    try:
        await asyncio.wait({work, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
            return True
        if gone.done():
            gone.result()
            return False
        raise PrepareFailed(
            f"cannot prepare {spec.model_version}: not ready within {timeout_s:g} s"
        )
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.wait({work, gone})

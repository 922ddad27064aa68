"""Rollouts of one version, for the tests of the reconciler."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from skysail_common.identifiers import ModelVersion
from skysail_management.events import DeployEvent, DeployStep
from skysail_testing.management_parts import ManagementParts, make_artifact
from skysail_testing.virtual_time import until

M1 = ModelVersion("m", "1")


@asynccontextmanager
async def rolling_out(parts: ManagementParts, **spec) -> AsyncIterator[AsyncIterator[DeployEvent]]:
    """Roll out `m:1` and yield the events of its deployment while its replica `c1` starts."""
    parts.manager.becomes_ready = False
    async with aclosing(parts.deploying("m:1", await parts.upload(make_artifact()), **spec)) as it:
        assert (await anext(it)).step is DeployStep.REGISTERED
        await until(lambda: parts.manager.ids() == ["c1"])
        yield it


def steps(events) -> list[DeployStep]:
    return [event.step for event in events]

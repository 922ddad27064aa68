"""How management serves the routes to frontends, and takes their reports."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import create_autospec

import pytest

from skysail_management.autoscaler import Autoscaler
from skysail_management.ownership.keeper import StoreKeeper
from skysail_management.profiles import Profiles
from skysail_management.servicer import ManagementServicer
from skysail_protos.v1 import management_pb2, routing_pb2
from skysail_testing.management_parts import ManagementParts, running_parts
from skysail_testing.virtual_time import now, settle, virtual_time


class Frontend:
    """What one frontend says and is sent."""

    def __init__(self, parts: ManagementParts, autoscaler: Any) -> None:
        self._said: asyncio.Queue[management_pb2.WatchRoutingRequest] = asyncio.Queue()
        self.say(frontend_id="f")
        servicer = ManagementServicer(
            cluster="c",
            container_manager="fake",
            keeper=create_autospec(StoreKeeper),
            records=parts.records,
            artifacts=parts.artifacts,
            downloads=None,
            applications=parts.applications,
            models=parts.models,
            deployments=parts.deployments,
            profiles=Profiles(parts.records),
            autoscaler=autoscaler,
            reconciler=parts.reconciler,
            routing=parts.routing,
            default_max_batch_size=8,
            load_report_interval_s=1.0,
        )
        self.snapshots = servicer.WatchRouting(self._all_said(), cast(Any, None))

    def say(self, **fields: Any) -> None:
        self._said.put_nowait(management_pb2.WatchRoutingRequest(**fields))

    async def _all_said(self) -> AsyncIterator[management_pb2.WatchRoutingRequest]:
        while True:
            yield await self._said.get()


@asynccontextmanager
async def watching(directory: Path) -> AsyncIterator[tuple[ManagementParts, Frontend, Any]]:
    autoscaler = create_autospec(Autoscaler, instance=True)
    async with running_parts(directory) as parts:
        frontend = Frontend(parts, autoscaler)
        async with aclosing(frontend.snapshots):
            yield parts, frontend, autoscaler


@virtual_time
async def test_frontend_gets_and_acknowledges_changes(tmp_path: Path):
    async with watching(tmp_path) as (parts, frontend, _):
        first = await anext(frontend.snapshots)
        applied = parts.reconciler.publish_routing()
        assert not applied.done()
        frontend.say(applied_sequence=first.sequence)
        await settle()
        assert applied.done()


@virtual_time
async def test_frontend_with_failing_reports_is_disconnected(
    tmp_path: Path,
):
    async with watching(tmp_path) as (parts, frontend, autoscaler):
        await anext(frontend.snapshots)
        assert [each.frontend_id for each in parts.routing.frontends] == ["f"]
        autoscaler.take.side_effect = OverflowError("a bug")
        frontend.say(loads=[routing_pb2.LoadReport(model="m", version="1")])
        with pytest.raises(OverflowError, match="a bug"):
            await anext(frontend.snapshots)
        assert parts.routing.frontends == []
        autoscaler.forget.assert_called_once_with("f")
        began = now()
        await parts.reconciler.publish_routing()
        assert now() - began < 0.1

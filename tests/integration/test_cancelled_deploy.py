"""A deploy that its caller cancels."""

import asyncio
import io
import sys
import threading
import time
from collections.abc import AsyncIterator

import pytest

import skysail
from skysail.descriptions import DeployEvent
from skysail_testing.clusters import RunningCluster


class Slow:
    """A function with a slow load."""

    def __getstate__(self) -> dict[str, bool]:
        return {"slow": True}

    def __setstate__(self, state: dict[str, bool]) -> None:
        time.sleep(30)

    def __call__(self, x: object) -> object:
        return x


@pytest.fixture
async def client(cluster: RunningCluster) -> AsyncIterator[skysail.AsyncClient]:
    async with skysail.AsyncClient(cluster.management) as client:
        yield client


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_cancelled_deploy_continues_in_the_cluster_and_leaves_no_task_or_spinner(
    client, monkeypatch
):
    await client.status()
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    has_begun = asyncio.Event()

    def on_event(event: DeployEvent) -> None:
        if event.step == "STARTING":
            has_begun.set()

    work = client.deploy(
        Slow(), name="cancelled", version="1", example=[[1.0]], on_event=on_event, progress=True
    )
    deploying = asyncio.create_task(work)
    await asyncio.wait_for(has_begun.wait(), 30)
    assert terminal.getvalue()
    deploying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deploying
    written = terminal.getvalue()
    await asyncio.sleep(0.5)
    assert terminal.getvalue() == written
    assert asyncio.all_tasks() == tasks
    left = set(threading.enumerate()) - threads
    # The pool of the event loop keeps its threads.
    assert [each.name for each in left if not each.name.startswith("asyncio_")] == []
    found = await client.describe_version("cancelled", "1")
    assert found.deployment is not None
    await client.undeploy("cancelled", "1")

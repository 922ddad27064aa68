"""GPUs of the local container manager, with made-up devices."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skysail_common.errors import Unsupported
from skysail_common.resources import Resources
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_testing.artifact_server import ArtifactServer
from skysail_testing.container_managers import (
    Backend,
    ManagerHarness,
    ask,
    open_harness,
    running_backend,
)


@pytest.fixture
async def backend_and_server(tmp_path: Path) -> AsyncIterator[tuple[Backend, ArtifactServer]]:
    async with running_backend("local", tmp_path / "d", gpu_devices="a,b") as backend_and_server:
        yield backend_and_server


def devices(texts):
    import os

    return [os.environ.get("CUDA_VISIBLE_DEVICES", "unset") for _ in texts]


async def seen(container: Container) -> str:
    (found,) = await ask(container, "?")
    return found


async def waiting_reason(harness: ManagerHarness, container: Container) -> str:
    await harness.reported(container, ReplicaState.STARTING)
    (found,) = [
        each for each in await harness.manager.list() if each.container_id == container.container_id
    ]
    return found.reason


async def test_replicas_see_only_the_gpus_that_they_reserve(backend_and_server):
    async with open_harness(*backend_and_server) as harness:
        spec = harness.version(devices)
        asked = [0.5, 0.5, 1, 0]
        made = [await harness.start_ready(spec, i, gpus=gpus) for i, gpus in enumerate(asked)]
        assert [await seen(each) for each in made] == ["a", "a", "b", ""]
        own = {"CUDA_VISIBLE_DEVICES": "a"}
        named = await harness.start_ready(spec, 4, environment=own)
        assert await seen(named) == "a"


async def test_a_replica_waits_until_a_gpu_is_free(backend_and_server):
    async with open_harness(*backend_and_server) as harness:
        spec = harness.version(devices)
        first = await harness.start_ready(spec, 0, gpus=1)
        second = await harness.start_ready(spec, 1, gpus=0.75)
        whole, part = [await harness.start(spec, 2 + i, gpus=1 - i / 2) for i in range(2)]
        assert "no GPU is free: it needs 1" in await waiting_reason(harness, whole)
        assert "it needs 0.5" in await waiting_reason(harness, part)
        await harness.manager.stop(first.container_id, 10.0)
        ready = await harness.reported(whole, ReplicaState.READY, ReplicaState.FAILED)
        assert (ready.state, ready.reason, await seen(ready)) == (ReplicaState.READY, "", "a")
        # A replica that waits can be stopped, and is then gone.
        await harness.manager.stop(part.container_id, 10.0)
        assert (await harness.ended(part)).state is ReplicaState.STOPPED
        assert {each.container_id for each in await harness.live()} == {
            whole.container_id,
            second.container_id,
        }


async def test_the_next_manager_knows_the_reservations(backend_and_server):
    async with open_harness(*backend_and_server) as harness:
        spec = harness.version(devices)
        await harness.start_ready(spec, 0, gpus=0.75)
        held = await harness.start_ready(spec, 1, gpus=1)
    async with open_harness(*backend_and_server) as harness:
        spec = harness.version(devices)
        part = await harness.start_ready(spec, 2, gpus=0.25)
        assert await seen(part) == "a"
        whole = await harness.start(spec, 3, gpus=1)
        assert "no GPU is free" in await waiting_reason(harness, whole)
        await harness.backend.kill(held)
        ready = await harness.reported(whole, ReplicaState.READY, ReplicaState.FAILED)
        assert await seen(ready) == "b"


async def test_more_gpus_than_there_are_cannot_be_deployed(backend_and_server):
    async with open_harness(*backend_and_server) as harness:
        harness.manager.check_resources(Resources(gpus=2))
        with pytest.raises(Unsupported, match="cannot reserve 3 GPUs"):
            harness.manager.check_resources(Resources(gpus=3))

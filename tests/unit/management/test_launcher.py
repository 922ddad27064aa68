"""Concurrent starts of replicas, and the waits for a slot."""

import asyncio
from pathlib import Path

from skysail_common.errors import ContainerManagerUnavailable, StoreUnavailable
from skysail_common.identifiers import ModelVersion
from skysail_common.states import ReplicaState
from skysail_management import messages
from skysail_management.events import DeployStep
from skysail_management.reconciler.start_slots import HOLD_S
from skysail_testing.management_parts import ManagementParts, running_parts
from skysail_testing.virtual_time import now, pass_time, settle, until, virtual_time

M1 = ModelVersion("m", "1")


async def register(parts: ManagementParts, name: str, num_replicas: int, **spec) -> None:
    """Deploy a version that was complete before, as after a restart of everything."""
    await parts.deployed(name, num_replicas=1)
    record = parts.deployment(name)
    update = {"num_replicas": num_replicas, **spec}
    await parts.records.commit([
        parts.records.deployments.put(name, record.model_copy(update=update))
    ])  # fmt: skip


async def all_at_once(parts: ManagementParts) -> None:
    """End what runs, so that everything is to be started."""
    parts.manager.becomes_ready = False
    parts.manager.started.clear()
    for name in list(parts.manager.ids()):
        parts.manager.fail(name)
    parts.reconciler.wake_all()


def started(parts: ManagementParts) -> list[str]:
    return [str(spec.replica_id) for spec in parts.manager.started]


def make_ready(parts: ManagementParts, number: int = 1) -> None:
    for name in list(parts.manager.ids(ReplicaState.STARTING))[:number]:
        parts.manager.set_state(name, ReplicaState.READY)


@virtual_time
async def test_slots_bound_concurrent_starts(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_limit = 2
    async with running_parts(tmp_path, parts.store, parts.manager) as parts:
        await register(parts, "m:1", 8, start_timeout_s=20.0)
        await all_at_once(parts)
        for count in (2, 4, 6, 8):
            await pass_time(15.0)
            assert len(started(parts)) == count
            make_ready(parts, 2)
        await until(lambda: parts.reconciler.num_ready(M1) == 8)
        # Each had its time from its own start, the last of them 60 s after the first.
        assert parts.manager.stopped == []


@virtual_time
async def test_versions_take_turns(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_limit = 2
    async with running_parts(tmp_path, parts.store, parts.manager) as parts:
        await register(parts, "a:1", 6)
        await register(parts, "b:1", 2)
        await all_at_once(parts)
        for _ in range(8):
            await pass_time(1.0)
            make_ready(parts)
        await pass_time(1.0)
        order = [name.split(":")[0] for name in started(parts)]
        # Version b comes a little later, and waits for one start each time.
        assert order[:6].count("b") == 2
        assert len(order) == 8


@virtual_time
async def test_failed_commit_of_one_version_does_not_block_others(tmp_path: Path):
    b1 = ModelVersion("b", "1")
    async with running_parts(tmp_path) as parts:
        parts.manager.start_limit = 1
    async with running_parts(tmp_path, parts.store, parts.manager) as parts:
        await parts.deployed("b:1")
        (of_b,) = parts.manager.ids()
        parts.manager.becomes_ready = False
        rollout = asyncio.create_task(parts.deploy("a:1", num_replicas=2))
        await pass_time(1.0)
        (of_a,) = parts.manager.ids(ReplicaState.STARTING)
        parts.manager.fail(of_b)
        await pass_time(5.0)
        assert started(parts) == ["b:1/0", "a:1/0"], "a:1/1 waits for the slot, and b:1/0 after it"
        parts.manager.becomes_ready = True
        # The rollout fails permanently, but the commit fails for now.
        parts.store.fails_with = [StoreUnavailable("away")] * 10_000
        parts.manager.fail(of_a, is_permanent=True)
        await pass_time(5.0)
        assert parts.reconciler.num_ready(b1) == 1
        parts.store.fails_with = []
        assert (await rollout)[-1].step is DeployStep.FAILED


@virtual_time
async def test_status_shows_the_wait_for_a_slot(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_limit = 2
    async with running_parts(tmp_path, parts.store, parts.manager) as parts:
        await register(parts, "m:1", 4)
        await all_at_once(parts)
        await pass_time(2.0)
        version = messages.version_to_proto(
            parts.records.versions.get("m:1"),
            parts.deployment("m:1"),
            parts.reconciler.version_loop(M1),
            is_current=True,
        )
        waiting = "waiting for a start slot: 2 others are starting"
        assert [(each.state, each.reason) for each in version.replicas] == [
            # The last failure tells more.
            (ReplicaState.FAILED, "killed"),
            (ReplicaState.STARTING, ""),
            (ReplicaState.STARTING, ""),
            (ReplicaState.PENDING, waiting),
        ]
        make_ready(parts, 2)
        await pass_time(1.0)
        make_ready(parts, 2)
        await settle()
        loop = parts.reconciler.version_loop(M1)
        assert [loop.waiting_reason(index) for index in range(4)] == [""] * 4


@virtual_time
async def test_a_scale_down_does_not_wait_for_starts(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_limit = 2
    async with running_parts(tmp_path, parts.store, parts.manager) as parts:
        await register(parts, "m:1", 100)
        await all_at_once(parts)
        await pass_time(2.0)
        assert len(started(parts)) == 2
        await parts.deployments.scale("m", "1", 1)
        await pass_time(2.0)
        assert started(parts) == ["m:1/1", "m:1/2", "m:1/0"]
        assert len(parts.manager.stopped) == 2
        assert [str(box.replica_id) for box in parts.manager.live.values()] == ["m:1/0"]


@virtual_time
async def test_replicas_of_one_version_start_concurrently(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.start_takes_s = 5.0
        began = now()
        await parts.deployments.scale("m", "1", 20)
        await until(lambda: parts.reconciler.num_ready(M1) == 20)
        assert now() - began < 6


@virtual_time
async def test_deploy_continues_while_replicas_wait_for_slots(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_limit = 1
    async with running_parts(tmp_path, parts.store, parts.manager) as parts:
        parts.manager.becomes_ready = False
        sha256 = await parts.register("m:1")
        deploying = asyncio.ensure_future(
            parts.deploy("m:1", sha256, num_replicas=100, start_timeout_s=20.0)
        )
        for _ in range(100):
            await pass_time(15.0)
            make_ready(parts)
        assert (await deploying)[-1].step is DeployStep.DONE


@virtual_time
async def test_hanging_starts_block_others_for_a_bounded_time(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_limit = 1
    async with running_parts(tmp_path, parts.store, parts.manager) as parts:
        await parts.deployed("b:1")
        parts.manager.becomes_ready = False
        await register_hanging(parts)
        began = now()
        parts.manager.becomes_ready = True
        (name,) = [each for each, box in parts.manager.live.items() if "b:1" in str(box.replica_id)]
        parts.manager.fail(name)
        await until(lambda: parts.reconciler.num_ready(ModelVersion("b", "1")) == 1, HOLD_S + 5)
        assert now() - began <= HOLD_S + 1


async def register_hanging(parts: ManagementParts) -> None:
    sha256 = await parts.register("a:1")
    deploying = parts.deploying("a:1", sha256, start_timeout_s=600.0)
    await anext(deploying)
    await pass_time(0.1)
    await deploying.aclose()


@virtual_time
async def test_a_start_that_does_not_return_in_time_has_failed(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_limit = 1
        parts.manager.hangs_starting = {"a:1"}
        events = await parts.deploy("a:1", start_timeout_s=5.0)
        assert "its start did not return within 5 s" in events[-1].message
        parts.manager.hangs_starting.clear()
        await parts.deployed("a:1")


@virtual_time
async def test_unreachable_engine_is_retried_with_backoff(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.start_errors = [ContainerManagerUnavailable("gone") for _ in range(4)]
        began = now()
        parts.manager.fail("c1")
        await until(lambda: parts.manager.ids() == ["c2"], 60)
        # Half a second of back-off, then 1, 2, 4 and 8 s, each shorter by up to a half.
        assert 0.5 + 15 / 2 <= now() - began <= 16
        assert parts.reconciler.version_loop(M1).replicas.num_restarts(0) == 1


@virtual_time
async def test_failed_replica_is_prepared_again_with_verification(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        assert parts.manager.verified == [False]
        parts.manager.becomes_ready = False
        parts.manager.fail("c1")
        await until(lambda: parts.manager.ids() == ["c2"])
        assert parts.manager.verified == [False, False]
        parts.manager.fail("c2", reason="its packages are gone")
        await until(lambda: parts.manager.ids() == ["c3"])
        assert parts.manager.verified == [False, False, True]
        parts.manager.set_state("c3", ReplicaState.READY)
        await settle()
        parts.manager.fail("c3")
        await until(lambda: parts.manager.ids() == ["c4"])
        assert parts.manager.verified == [False, False, True, False]

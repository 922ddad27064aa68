import asyncio
from pathlib import Path

import pytest

from skysail_common.errors import ContainerManagerUnavailable, ModelNotFound, ReplicaNotFound
from skysail_common.identifiers import ModelVersion
from skysail_management.events import DeployStep
from skysail_management.routing import Watcher
from skysail_testing.fake_containers import FakeContainerManager
from skysail_testing.management_parts import ManagementParts, make_artifact, running_parts
from skysail_testing.memory_store import MemoryStore
from skysail_testing.virtual_time import now, settle, until, virtual_time
from unit.management.reconciler.rollouts import M1, rolling_out


@virtual_time
async def test_undeploy_cancels_a_preparation(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.hangs_preparing = {"m:1"}
        events = parts.deploying("m:1", await parts.upload(make_artifact()))
        await anext(events)
        await until(lambda: parts.manager.num_preparing)
        begin = now()
        await parts.deployments.undeploy("m", "1", force=False)
        *_, last = [event async for event in events]
        assert last.step is DeployStep.FAILED
        assert last.message == "m:1 was undeployed during the deployment"
        await until(lambda: parts.manager.num_preparing == 0)
        assert now() - begin < 1
        assert parts.manager.started == []
        await until(lambda: parts.reconciler.version_loop(M1) is None)
        assert [str(record.model_version) for record in parts.models.versions()] == ["m:1"]


@virtual_time
async def test_undeploy_drains_all_replicas(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=3)
        await parts.deployments.undeploy("m", "1", force=False)
        await until(lambda: parts.reconciler.version_loop(M1) is None)
        assert sorted(parts.manager.stopped) == ["c1", "c2", "c3"]
        assert parts.manager.live == {}
        assert parts.manager.swept[-1][0].model_version == M1


@virtual_time
async def test_scale_up_starts_the_missing_and_scale_down_stops_the_highest(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        await parts.deployments.scale("m", "1", 4)
        await until(lambda: parts.reconciler.num_ready(M1) == 4)
        await parts.deployments.scale("m", "1", 1)
        await until(lambda: parts.manager.ids() == ["c1"])
        assert sorted(parts.manager.stopped) == ["c2", "c3", "c4"]
        await parts.deployments.scale("m", "1", 0)
        await until(lambda: parts.manager.ids() == [])
        assert parts.records.deployments.get("m:1") is not None


@virtual_time
async def test_replica_stops_after_every_frontend_applied_the_routes(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        watcher = Watcher("f1", "", "")
        with parts.routing.attach(watcher):
            snapshots = parts.routing.snapshots(watcher)
            sequence, state = await anext(snapshots)
            assert len(state.versions[0].replicas) == 2
            parts.routing.acknowledge(watcher, sequence)
            begin = now()
            await parts.deployments.scale("m", "1", 1)
            sequence, state = await anext(snapshots)
            while len(state.versions[0].replicas) == 2:
                sequence, state = await anext(snapshots)
            await settle()
            assert parts.manager.stopped == []
            parts.routing.acknowledge(watcher, sequence)
            await until(lambda: parts.manager.stopped == ["c2"])
            assert now() - begin < 0.1
            await snapshots.aclose()


@virtual_time
async def test_silent_frontend_delays_a_stop_by_two_seconds(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        with parts.routing.attach(Watcher("silent", "", "")):
            begin = now()
            scaling = parts.deployments.scale("m", "1", 1)
            await scaling
            await until(lambda: parts.manager.stopped == ["c2"])
            assert now() - begin == pytest.approx(2.0, abs=0.1)


@virtual_time
async def test_index_restarts_after_its_draining_container_is_gone(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        parts.manager.drain_gate = asyncio.Event()
        await parts.deployments.scale("m", "1", 1)
        await until(lambda: parts.manager.stopped == ["c2"])
        assert parts.reconciler.num_ready(M1) == 1
        await parts.deployments.scale("m", "1", 2)
        await settle()
        assert len(parts.manager.started) == 2
        parts.manager.drain_gate.set()
        await until(lambda: parts.reconciler.num_ready(M1) == 2)
        assert parts.manager.ids() == ["c1", "c3"]


@virtual_time
async def test_failed_stop_is_retried(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.stop_errors = [ContainerManagerUnavailable("no docker")] * 3
        await parts.deployments.undeploy("m", "1", force=False)
        await until(lambda: parts.manager.stopped == ["c1"], 10)


@virtual_time
async def test_stop_is_retried_after_any_error(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.stop_errors = [OSError("no process")]
        await parts.deployments.undeploy("m", "1", force=False)
        await until(lambda: parts.manager.stopped == ["c1"], 10)


@pytest.mark.parametrize("error", [ReplicaNotFound("gone"), OSError("disk")])
@virtual_time
async def test_replica_with_an_unreadable_log_is_stopped(tmp_path: Path, error):
    async with running_parts(tmp_path) as parts:
        parts.manager.becomes_ready = False
        parts.manager.log_errors = [error] * 3
        events = await parts.deploy("m:1", start_timeout_s=7.0)
        assert events[-1].message == "m:1/0 failed: not ready within 7 s"
        assert events[-1].log_tail == ""
        await until(lambda: parts.manager.stopped == ["c1", "c2", "c3"])


@virtual_time
async def test_redeployment_while_the_last_one_drains(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.drain_gate = asyncio.Event()
        await parts.deployments.undeploy("m", "1", force=False)
        await until(lambda: parts.manager.stopped)
        await parts.models.unregister_version(M1)
        with pytest.raises(ModelNotFound):
            parts.models.get("m")
        other = await parts.upload(make_artifact("other", requirements=["six"]))
        events = parts.deploying("m:1", other)
        await anext(events)
        await settle()
        parts.manager.drain_gate.set()
        assert [event async for event in events][-1].step is DeployStep.DONE
        assert parts.manager.ids() == ["c2"]
        assert parts.manager.prepared[-1].requirements == ("six",)
        assert parts.manager.started[-1].version.artifact_sha256 == other


@pytest.mark.parametrize("num_turns", range(5))
@virtual_time
async def test_woken_loop_ends_on_shutdown(tmp_path: Path, num_turns: int):
    async with running_parts(tmp_path) as parts, rolling_out(parts):
        await settle()
        parts.reconciler.version_loop(M1).wake()
        for _ in range(num_turns):
            await asyncio.sleep(0)
        begin = now()
        await parts.reconciler.stop()
        assert now() - begin < 1


@virtual_time
async def test_stop_all_ignores_the_desired_state(tmp_path: Path):
    parts = ManagementParts(tmp_path, MemoryStore(), FakeContainerManager())
    await parts.records.load()
    await parts.reconciler.start()
    await parts.deployed("m:1", num_replicas=2)
    await parts.deployed("m:2")
    await parts.reconciler.stop_all_containers()
    assert parts.manager.live == {}
    assert not parts.manager.is_open
    assert len(parts.records.deployments.all()) == 2


@virtual_time
async def test_sweep_gets_the_needed_versions(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        kept = await parts.register("m:1")
        await parts.register("m:2")
        await parts.models.unregister_version(ModelVersion("m", "2"))
        await until(lambda: parts.manager.swept, 40)
        assert [spec.artifact_sha256 for spec in parts.manager.swept[-1]] == [kept]

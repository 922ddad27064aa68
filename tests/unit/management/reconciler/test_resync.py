from dataclasses import replace
from pathlib import Path

from skysail_common.errors import ContainerManagerUnavailable
from skysail_common.identifiers import ReplicaId
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_testing.fake_containers import FakeContainerManager
from skysail_testing.management_parts import make_artifact, running_parts
from skysail_testing.memory_store import MemoryStore
from skysail_testing.virtual_time import pass_time, until, virtual_time
from unit.management.reconciler.rollouts import M1


@virtual_time
async def test_resync_finds_lost_containers(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        parts.manager.lose("c1")
        await until(lambda: parts.manager.ids() == ["c2", "c3"], 62)
        assert parts.reconciler.num_ready(M1) == 2
        assert parts.reconciler.version_loop(M1).replicas.num_restarts(0) == 1


@virtual_time
async def test_resync_finds_unreported_containers_and_states(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.live["x1"] = Container("x1", ReplicaId(M1, 0), ReplicaState.READY)
        await until(lambda: parts.manager.stopped == ["x1"], 40)


@virtual_time
async def test_listed_failed_container_counts_once(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.fail("c1")
        remains = Container("c1", ReplicaId(M1, 0), ReplicaState.FAILED, reason="killed")
        parts.manager.live["c1"] = remains
        await pass_time(50)
        assert parts.reconciler.version_loop(M1).replicas.num_restarts(0) == 1
        assert [box.container_id for box in parts.reconciler.containers()] == ["c2"]


@virtual_time
async def test_resync_finds_an_unreported_failure(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.live["c1"] = replace(parts.manager.live["c1"], state=ReplicaState.FAILED)
        await pass_time(40)
        assert parts.reconciler.version_loop(M1).replicas.num_restarts(0) == 1
        assert [box.container_id for box in parts.reconciler.containers()] == ["c2"]


@virtual_time
async def test_resync_continues_after_an_unreachable_engine(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.list_errors = [ContainerManagerUnavailable("no docker")]
        parts.manager.lose("c1")
        await until(lambda: parts.manager.ids() == ["c2"], 95)


@virtual_time
async def test_resync_continues_after_an_internal_error(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.list_errors = [OSError("disk")]
        parts.manager.lose("c1")
        await until(lambda: parts.manager.ids() == ["c2"], 95)


@virtual_time
async def test_a_deployment_without_a_version_does_not_spin(tmp_path: Path):
    store = MemoryStore()
    async with running_parts(tmp_path, store) as parts:
        await parts.deployed("m:1")
        # An earlier Skysail or a manual edit of the store may leave this state.
        parts.records.check = None
        await parts.records.commit([parts.records.versions.delete("m:1")])
        parts.manager.fail("c1")
        await pass_time(20)
        assert len(parts.manager.started) == 1
        assert len(parts.manager.prepared) == 1


@virtual_time
async def test_next_management_adopts_containers_and_finishes_the_rollout(
    tmp_path: Path,
):
    store, manager = MemoryStore(), FakeContainerManager()
    async with running_parts(tmp_path, store, manager) as first:
        await first.deployed("m:1", promote=True, num_replicas=2)
        manager.becomes_ready = False
        events = first.deploying(
            "m:2", await first.upload(make_artifact("2")), promote=True, num_replicas=1
        )
        await anext(events)
        await until(lambda: len(manager.live) == 3)
        await events.aclose()
    assert not manager.is_open
    manager.fail("c1")
    async with running_parts(tmp_path, store, manager) as second:
        assert second.reconciler.num_ready(M1) == 1
        assert second.models.get("m").current_version == "1"
        manager.becomes_ready = True
        manager.set_state("c3", ReplicaState.READY)
        await until(lambda: second.models.get("m").current_version == "2")
        await until(lambda: second.reconciler.num_ready(M1) == 2)
        assert manager.stopped == []
        assert manager.ids() == ["c2", "c3", "c4"]


@virtual_time
async def test_failure_after_a_restart_of_management_undoes_the_rollout(
    tmp_path: Path,
):
    store, manager = MemoryStore(), FakeContainerManager()
    manager.becomes_ready = False
    async with running_parts(tmp_path, store, manager) as first:
        events = first.deploying("m:1", await first.upload(make_artifact()))
        await anext(events)
        await until(lambda: manager.live)
        await events.aclose()
    async with running_parts(tmp_path, store, manager) as second:
        manager.fail("c1", is_permanent=True)
        await until(lambda: not second.records.models.all())
        assert second.records.versions.all() == []
        assert second.records.deployments.all() == []

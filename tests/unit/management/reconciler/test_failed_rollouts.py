import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from skysail_common.errors import (
    ContainerManagerUnavailable,
    ModelNotFound,
    ReplicaNotFound,
    SkysailError,
    StoreUnavailable,
)
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.resources import Resources
from skysail_common.rpc.messages import latencies_to_proto
from skysail_common.states import ReplicaState
from skysail_common.tokens import is_token_of
from skysail_management.containers.base import Container, PrepareFailed, WarmUp
from skysail_management.events import DeployEvent, DeployStep
from skysail_management.messages import version_to_proto
from skysail_management.profiles import Profiles
from skysail_management.routing import Watcher
from skysail_protos.v1 import routing_pb2
from skysail_testing.fake_containers import FakeContainerManager
from skysail_testing.management_parts import (
    ManagementParts,
    make_artifact,
    running_parts,
    sha256_of,
)
from skysail_testing.memory_store import MemoryStore
from skysail_testing.virtual_time import now, pass_time, settle, until, virtual_time

M1 = ModelVersion("m", "1")


@asynccontextmanager
async def rolling_out(parts: ManagementParts, **spec) -> AsyncIterator[AsyncIterator[DeployEvent]]:
    """Have `m:1` be rolled out inside the block, with `c1` starting; yields what happens."""
    parts.manager.becomes_ready = False
    async with aclosing(parts.deploying("m:1", await parts.upload(make_artifact()), **spec)) as it:
        assert (await anext(it)).step is DeployStep.REGISTERED
        await until(lambda: parts.manager.ids() == ["c1"])
        yield it


def steps(events) -> list[DeployStep]:
    return [event.step for event in events]


@virtual_time
async def test_rollout_prepares_starts_promotes_and_completes(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        events = await parts.deploy("m:1", num_replicas=2, promote=True)
        assert list(dict.fromkeys(steps(events))) == [
            DeployStep.REGISTERED,
            DeployStep.PREPARING,
            DeployStep.STARTING,
            DeployStep.READY,
            DeployStep.PROMOTED,
            DeployStep.DONE,
        ]
        assert steps(events).count(DeployStep.READY) == 2
        assert (events[-1].num_ready, events[-1].num_replicas) == (2, 2)
        assert parts.models.get("m").current_version == "1"
        deployment = parts.deployment("m:1")
        assert deployment.is_rolled_out
        assert not deployment.promote_when_ready
        assert not deployment.removes_version_on_failure
        assert parts.reconciler.num_ready(M1) == 2


@virtual_time
async def test_deploy_without_promotion_keeps_the_current_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        await parts.deployed("m:2")
        assert parts.models.get("m").current_version == "1"
        await parts.deployed("m:2", promote=True)
        assert parts.models.get("m").current_version == "2"
        assert parts.models.get("m").previous_versions == ("1",)


@virtual_time
async def test_replica_spec_has_all_values(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed(
            "m:1",
            num_replicas=1,
            num_threads=3,
            memory_mib=512,
            cpus=1.5,
            gpus=2,
            environment={"A": "b"},
        )
        (spec,) = parts.manager.started
        assert spec.replica_id == ReplicaId(M1, 0)
        assert spec.management_endpoint == "127.0.0.1:1"
        assert is_token_of(spec.token, "secret", M1, spec.version.artifact_sha256)
        assert spec.resources == Resources(num_threads=3, memory_mib=512, cpus=1.5, gpus=2)
        assert spec.environment == {"A": "b"}
        assert "token" not in repr(spec)


@virtual_time
async def test_without_threads_replicas_share_the_cores(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=3)
        await parts.deployed("m:2", num_replicas=9)
        assert [spec.resources.num_threads for spec in parts.manager.started] == [2] * 3 + [1] * 9


@virtual_time
async def test_replica_with_known_latencies_is_not_measured_again(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", serving={"max_batch_size": 8}, warm_up=False)
        assert parts.manager.started[-1].warm_up == WarmUp(
            is_on=False, budget_s=0.5, max_rows=8, is_measured=False
        )
        points = latencies_to_proto([(1, 0.01)])
        report = routing_pb2.LatencyReport(model="m", version="1", points=points)
        await Profiles(parts.records).take([report])
        await parts.deployments.scale("m", "1", 2)
        await settle()
        assert len(parts.manager.started) == 2
        assert parts.manager.started[-1].warm_up.is_measured
        events = await parts.deploy(
            "m:1", parts.records.versions.get("m:1").artifact_sha256, warm_up=True, num_replicas=3
        )
        assert "warm_up=True holds for replicas that start from now on" in [
            each.message for each in events
        ]
        assert parts.manager.started[-1].warm_up.is_on


@pytest.mark.parametrize(("cpus", "num_threads"), [(0.25, 1), (1.0, 1), (2.5, 3)])
@virtual_time
async def test_a_replica_has_as_many_threads_as_cpus(tmp_path: Path, cpus, num_threads):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", cpus=cpus)
        assert [spec.resources.num_threads for spec in parts.manager.started] == [num_threads]


@virtual_time
async def test_manager_sets_the_default_threads(tmp_path: Path, monkeypatch):
    async with running_parts(tmp_path) as parts:
        monkeypatch.setattr(parts.manager, "default_threads", lambda num_replicas: 7 * num_replicas)
        await parts.deployed("m:1", num_replicas=2)
        assert [spec.resources.num_threads for spec in parts.manager.started] == [14, 14]


@virtual_time
async def test_permanent_failure_fails_the_rollout_at_once_and_leaves_nothing(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.fails_with = [
            {"reason": "no module named x", "is_permanent": True, "log_tail": "Traceback …"}
        ]
        events = await parts.deploy("m:1")
        assert events[-1].step is DeployStep.FAILED
        assert events[-1].message == "m:1/0 failed: no module named x"
        assert events[-1].log_tail == "Traceback …"
        assert DeployStep.RETRYING not in steps(events)
        assert len(parts.manager.started) == 1
        assert parts.records.deployments.all() == []
        assert parts.records.versions.all() == []
        assert parts.records.models.all() == []
        await until(lambda: parts.manager.swept)
        assert not await parts.artifacts.find(sha256_of(make_artifact("m:1")))
        assert parts.reconciler.version_loop(M1) is None


@virtual_time
async def test_three_transient_failures_fail_the_rollout(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.fails_with = [{"reason": f"attempt {number}"} for number in (1, 2, 3)]
        begin = now()
        events = await parts.deploy("m:1")
        assert steps(events).count(DeployStep.RETRYING) == 2
        assert events[-1].step is DeployStep.FAILED
        assert events[-1].message == "m:1/0 failed: attempt 3"
        assert len(parts.manager.started) == 3
        # Half a second after the first failure, a second after the next.
        assert now() - begin == pytest.approx(1.5, abs=0.1)
        assert parts.records.versions.all() == []


@virtual_time
async def test_two_transient_failures_are_overcome(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.fails_with = [{"reason": "no port"}, {"reason": "no port"}]
        await parts.deployed("m:1")
        assert len(parts.manager.started) == 3
        assert parts.deployment("m:1").is_rolled_out


@virtual_time
async def test_failed_rollout_stops_ready_replicas(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        parts.manager.becomes_ready = False
        events = parts.deploying("m:2", await parts.upload(make_artifact("2")), num_replicas=2)
        assert (await anext(events)).step is DeployStep.REGISTERED
        await until(lambda: len(parts.manager.live) == 3)
        parts.manager.set_state("c2", ReplicaState.READY)
        await settle()
        parts.manager.fail("c3", reason="bad weights", is_permanent=True)
        assert [event async for event in events][-1].step is DeployStep.FAILED
        await until(lambda: parts.manager.ids() == ["c1"])
        assert parts.models.get("m").current_version == "1"
        assert [record.version for record in parts.models.versions("m")] == ["1"]


@virtual_time
async def test_a_failed_redeployment_of_a_registered_version_keeps_the_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        parts.manager.fails_with = [{"is_permanent": True}]
        events = await parts.deploy("m:1")
        assert events[-1].step is DeployStep.FAILED
        assert parts.records.deployments.all() == []
        assert [str(record.model_version) for record in parts.models.versions()] == ["m:1"]


@virtual_time
async def test_failed_preparation_fails_the_rollout_with_its_log(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        error = PrepareFailed("pip cannot install x: no matching distribution")
        error.log_tail = "ERROR: no matching distribution"
        parts.manager.prepare_errors = [error]
        events = await parts.deploy("m:1")
        assert events[-1].step is DeployStep.FAILED
        assert events[-1].message == error.message
        assert events[-1].log_tail == error.log_tail
        assert parts.manager.started == []
        assert parts.records.versions.all() == []


@virtual_time
async def test_preparation_has_a_time_limit(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.hangs_preparing = {"m:1"}
        begin = now()
        events = await parts.deploy("m:1")
        assert events[-1].step is DeployStep.FAILED
        assert "not ready within 900 s" in events[-1].message
        assert now() - begin == pytest.approx(900, abs=1)
        await until(lambda: parts.manager.num_preparing == 0)


@virtual_time
async def test_preparation_retries_an_unreachable_engine(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.prepare_errors = [ContainerManagerUnavailable("no docker")] * 4
        begin = now()
        await parts.deployed("m:1")
        # Each wait is shorter by up to a half.
        assert (1 + 2 + 4 + 8) / 2 <= now() - begin <= 1 + 2 + 4 + 8 + 0.5


@virtual_time
async def test_start_retries_an_unreachable_engine(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_errors = [ContainerManagerUnavailable("no docker")] * 4
        await parts.deployed("m:1")
        assert parts.reconciler.version_loop(M1).replicas.num_restarts(0) == 0


@virtual_time
async def test_failed_start_is_retried_soon(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_errors = [SkysailError("no such file"), SkysailError("no such file")]
        begin = now()
        await parts.deployed("m:1")
        assert now() - begin == pytest.approx(1.5, abs=0.1)


@virtual_time
async def test_repeated_start_failures_fail_the_rollout(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_errors = [SkysailError("no such file")] * 3
        begin = now()
        events = await parts.deploy("m:1")
        assert events[-1].message == "m:1/0 failed: no such file"
        assert now() - begin == pytest.approx(1.5, abs=0.1)


@virtual_time
async def test_failed_start_prepares_again(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_errors = [SkysailError("the environment was removed")]
        await parts.deployed("m:1")
        assert len(parts.manager.prepared) == 2


@virtual_time
async def test_status_shows_a_failed_preparation_of_a_running_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        loop = parts.reconciler.version_loop(M1)
        reason = "m:1 was made with Python 3.11.7, and replicas here run Python 3.12"
        # The environment is prepared again, as after a restart of management.
        parts.manager.start_errors = [SkysailError("the environment was removed")]
        parts.manager.prepare_errors = [PrepareFailed(reason)] * 2
        parts.manager.fail("c1")
        await until(lambda: loop.replicas.failed and loop.replicas.failed[0].reason == reason)
        version = parts.records.versions.get("m:1")
        assert version is not None
        deployment = parts.records.deployments.get("m:1")
        message = version_to_proto(version, deployment, loop, is_current=True)
        (replica,) = message.replicas
        assert (replica.replica_id, replica.reason) == ("m:1/0", reason)
        await until(lambda: loop.num_ready == 1)
        assert loop.replicas.failed == {}


@virtual_time
async def test_failure_before_start_returns_leaves_no_container(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.fails_with = [{"reason": "at once"}]
        await parts.deployed("m:1")
        assert [box.container_id for box in parts.reconciler.containers()] == ["c2"]


@virtual_time
async def test_start_timeout_reports_the_log_tail(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        parts.manager.becomes_ready = False
        begin = now()
        events = await parts.deploy("m:1", start_timeout_s=7.0)
        assert events[-1].step is DeployStep.FAILED
        assert events[-1].message == "m:1/0 failed: not ready within 7 s"
        assert "of c3" in events[-1].log_tail
        assert parts.manager.stopped == ["c1", "c2", "c3"]
        assert now() - begin == pytest.approx(3 * 7 + 0.5 + 1, abs=0.5)


@virtual_time
async def test_failed_rollout_does_not_wait_for_stops(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.becomes_ready = False
        parts.manager.stop_errors = [ContainerManagerUnavailable("no docker")] * 9
        begin = now()
        events = await parts.deploy("m:1", num_replicas=3, start_timeout_s=7.0)
        assert events[-1].step is DeployStep.FAILED
        assert now() - begin == pytest.approx(7, abs=0.5)
        await until(lambda: parts.reconciler.version_loop(M1) is None)


@virtual_time
async def test_failed_rollout_does_not_wait_forever_for_the_store(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.becomes_ready = False
        events = parts.deploying("m:1", await parts.upload(make_artifact()))
        await anext(events)
        await until(lambda: parts.manager.live)
        parts.store.fails_with = [StoreUnavailable("gone")] * 2
        parts.manager.fail("c1", is_permanent=True)
        assert [event async for event in events][-1].step is DeployStep.FAILED
        assert parts.records.deployments.all() == []


@virtual_time
async def test_scale_during_the_completion_of_a_rollout_is_kept(tmp_path: Path):
    async with running_parts(tmp_path) as parts, rolling_out(parts, promote=True) as events:
        async with parts.records.lock:
            parts.manager.set_state("c1", ReplicaState.READY)
            await settle()
            deployment = parts.deployment("m:1")
            wanted = deployment.model_copy(update={"num_replicas": 2})
            await parts.records.commit([parts.records.deployments.put("m:1", wanted)])
        parts.reconciler.wake(M1)
        await until(lambda: parts.manager.ids() == ["c1", "c2"])
        assert parts.deployment("m:1") == wanted
        assert parts.models.get("m").current_version == ""
        parts.manager.set_state("c2", ReplicaState.READY)
        last = [event async for event in events][-1]
        assert (last.step, last.num_replicas) == (DeployStep.DONE, 2)
        assert parts.deployment("m:1").num_replicas == 2
        assert parts.models.get("m").current_version == "1"


@virtual_time
async def test_undeploy_during_the_completion_of_a_rollout_is_kept(tmp_path: Path):
    async with running_parts(tmp_path) as parts, rolling_out(parts, promote=True) as events:
        async with parts.records.lock:
            undeploying = asyncio.ensure_future(parts.deployments.undeploy("m", "1", force=False))
            await settle()
            parts.manager.set_state("c1", ReplicaState.READY)
            await settle()
        await undeploying
        assert [event async for event in events][
            -1
        ].message == "m:1 was undeployed during the deployment"
        await until(lambda: parts.reconciler.version_loop(M1) is None)
        assert parts.records.deployments.all() == []
        assert parts.models.get("m").current_version == ""


@virtual_time
async def test_new_deployment_does_not_inherit_failures(tmp_path: Path):
    async with running_parts(tmp_path) as parts, rolling_out(parts):
        async with parts.records.lock:
            parts.manager.fail("c1", is_permanent=True)
            await settle()
            other = parts.deployment("m:1").model_copy(update={"resources": Resources(2)})
            await parts.records.commit([parts.records.deployments.put("m:1", other)])
        await until(lambda: parts.manager.ids() == ["c2"])
        parts.manager.set_state("c2", ReplicaState.READY)
        await until(lambda: parts.deployment("m:1").is_rolled_out)
        assert parts.deployment("m:1").resources.num_threads == 2


@virtual_time
async def test_replica_that_fails_during_completion_is_restarted(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts, rolling_out(parts) as events:
        parts.store.gate = asyncio.Event()
        parts.manager.set_state("c1", ReplicaState.READY)
        await settle()
        parts.manager.fail("c1", is_permanent=True)
        await settle()
        parts.store.gate.set()
        assert [event async for event in events][-1].step is DeployStep.DONE
        parts.manager.becomes_ready = True
        await until(lambda: parts.reconciler.num_ready(M1) == 1)
        assert (await parts.deploy("m:1"))[-1].step is DeployStep.DONE


@virtual_time
async def test_internal_error_does_not_end_the_loop(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.start_errors = [RuntimeError("a mistake")] * 4
        await parts.deployments.scale("m", "1", 2)
        await until(lambda: not parts.manager.start_errors, 60)
        assert parts.reconciler.num_ready(M1) == 1
        await until(lambda: parts.reconciler.num_ready(M1) == 2, 60)
        assert parts.manager.ids() == ["c1", "c2"]


@virtual_time
async def test_repeated_internal_error_fails_the_rollout(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.prepare_errors = [OSError("secret details")] * 3
        begin = now()
        events = await parts.deploy("m:1")
        assert events[-1].step is DeployStep.FAILED
        assert events[-1].message == (
            "cannot deploy m:1: internal error; see the log of management"
        )
        assert now() - begin < 10
        assert parts.records.versions.all() == []
        await parts.deployed("m:1")


@virtual_time
async def test_complete_deployment_restarts_replicas_with_backoff_forever(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.becomes_ready = False
        waits = []
        for number in range(1, 12):
            failed = now()
            parts.manager.fail(f"c{number}", is_permanent=number % 2 == 0)
            await until(lambda number=number: f"c{number + 1}" in parts.manager.live, 70)
            waits.append(now() - failed)
        assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60], abs=0.05)
        assert parts.deployment("m:1").is_rolled_out
        assert parts.reconciler.version_loop(M1).replicas.num_restarts(0) == 11


@virtual_time
async def test_once_ready_replica_restarts_soon_after_each_crash(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        waits = []
        for number in range(1, 9):
            failed = now()
            parts.manager.fail(f"c{number}")
            await until(lambda number=number: f"c{number + 1}" in parts.manager.live, 70)
            waits.append(now() - failed)
        assert waits == pytest.approx([0.5, 1, 2, 4, 5, 5, 5, 5], abs=0.05)


@virtual_time
async def test_failures_are_reset_after_a_minute_of_health(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        loop = parts.reconciler.version_loop(M1)
        for number in range(1, 5):
            parts.manager.fail(f"c{number}")
            await until(lambda number=number: f"c{number + 1}" in parts.manager.live)
        assert loop.replicas.num_restarts(0) == 4
        await pass_time(61)
        failed = now()
        parts.manager.fail("c5")
        await until(lambda: "c6" in parts.manager.live)
        assert now() - failed == pytest.approx(0.5, abs=0.05)
        assert loop.replicas.num_restarts(0) == 1


@virtual_time
async def test_failed_replica_is_shown_until_its_index_is_live(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        parts.manager.fail("c2", reason="killed by SIGKILL")
        await settle()
        loop = parts.reconciler.version_loop(M1)
        assert loop.replicas.failed[1].reason == "killed by SIGKILL"
        assert loop.num_ready == 1
        await until(lambda: loop.num_ready == 2)
        assert loop.replicas.failed == {}


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
async def test_hanging_version_does_not_block_another(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.hangs_preparing = {"stuck:1"}
        events = parts.deploying("stuck:1", await parts.upload(make_artifact("stuck")))
        await anext(events)
        await until(lambda: parts.manager.num_preparing)
        begin = now()
        await parts.deployed("m:1", promote=True)
        parts.manager.fail("c1")
        await until(lambda: parts.reconciler.num_ready(M1) == 1)
        assert now() - begin < 1
        await parts.deployments.undeploy("stuck", "1", force=True)
        assert [event async for event in events][-1].step is DeployStep.FAILED


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

from pathlib import Path

import pytest

from skysail_common.errors import ContainerManagerUnavailable, SkysailError, StoreUnavailable
from skysail_common.states import ReplicaState
from skysail_management.containers.base import PrepareFailed
from skysail_management.events import DeployStep
from skysail_testing.management_parts import make_artifact, running_parts, sha256_of
from skysail_testing.virtual_time import now, settle, until, virtual_time
from unit.management.reconciler.rollouts import M1, steps


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
        # The backoff is 0.5 s after the first failure and 1 s after the second.
        assert now() - begin == pytest.approx(1.5, abs=0.1)
        assert parts.records.versions.all() == []


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
async def test_repeated_start_failures_fail_the_rollout(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_errors = [SkysailError("no such file")] * 3
        begin = now()
        events = await parts.deploy("m:1")
        assert events[-1].message == "m:1/0 failed: no such file"
        assert now() - begin == pytest.approx(1.5, abs=0.1)


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

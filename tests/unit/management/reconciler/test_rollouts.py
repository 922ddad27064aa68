import asyncio
from pathlib import Path

from skysail_common.resources import Resources
from skysail_common.states import ReplicaState
from skysail_management.events import DeployStep
from skysail_testing.management_parts import make_artifact, running_parts
from skysail_testing.virtual_time import now, settle, until, virtual_time
from unit.management.reconciler.rollouts import M1, rolling_out, steps


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

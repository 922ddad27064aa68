import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from skysail_common.errors import (
    ArtifactNotFound,
    FailedPrecondition,
    InvalidInput,
    ModelInUse,
    ModelNotFound,
    ReplicaNotFound,
    SkysailError,
    StoreUnavailable,
    Unsupported,
)
from skysail_common.identifiers import ModelVersion
from skysail_common.states import ReplicaState
from skysail_common.tensors import InputType
from skysail_management.containers.base import PrepareFailed
from skysail_management.events import DeployEvent, DeployStep
from skysail_management.records import RouteRecord
from skysail_testing.management_parts import make_artifact, running_parts
from skysail_testing.virtual_time import now, settle, until, virtual_time

M1 = ModelVersion("m", "1")


@virtual_time
async def test_omitted_values_get_the_defaults_of_the_server(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        deployment = parts.deployment("m:1")
        assert (deployment.num_replicas, deployment.serving.max_batch_size) == (1, 64)
        assert deployment.start_timeout_s == 60.0


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"num_replicas": 0}, "num_replicas must be from 1 to 1000"),
        ({"num_replicas": 1001}, "num_replicas"),
        ({"environment": {"": "x"}}, "as an environment variable of a replica"),
        ({"environment": {"A=B": "x"}}, "as an environment variable of a replica"),
        ({"environment": {"A\0": "x"}}, "as an environment variable of a replica"),
        ({"environment": {"A": "x\0y"}}, "as an environment variable of a replica"),
        ({"environment": {"SKYSAIL_MODEL_SERVER_TOKEN": "x"}}, "as an environment variable"),
        ({"labels": {"a b": ""}}, "label"),
    ],
)
@virtual_time
async def test_invalid_request_is_rejected_and_leaves_nothing(tmp_path: Path, spec, what):
    async with running_parts(tmp_path) as parts:
        sha256 = await parts.upload(make_artifact("m:1"))
        with pytest.raises(InvalidInput, match=what):
            await parts.deploy("m:1", sha256, **spec)
        assert not await parts.artifacts.find(sha256)
        assert parts.records.versions.all() == []
        assert parts.records.deployments.all() == []


@virtual_time
async def test_deploy_needs_a_registered_version_or_an_artifact(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(ModelNotFound):
            await anext(parts.deploying("m:1"))
        with pytest.raises(ArtifactNotFound):
            await anext(parts.deploying("m:1", "0" * 64))
        with pytest.raises(InvalidInput):
            await anext(parts.deploying("m:1", "../x"))


@virtual_time
async def test_unreachable_store_rejects_a_deployment(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        sha256 = await parts.upload(make_artifact())
        parts.store.fails_with = [StoreUnavailable("gone")]
        with pytest.raises(StoreUnavailable):
            await anext(parts.deploying("m:1", sha256))
        await parts.deployed("m:1", sha256=sha256)


@virtual_time
async def test_repeated_deployment_is_done_at_once(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        begin = now()
        events = await parts.deploy("m:1", num_replicas=2)
        assert [event.step for event in events] == [DeployStep.REGISTERED, DeployStep.DONE]
        assert now() - begin < 0.1
        assert len(parts.manager.started) == 2


@virtual_time
async def test_redeployment_scales_and_promotes(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        await parts.deployed("m:1", num_replicas=3, promote=True)
        assert parts.reconciler.num_ready(M1) == 3
        assert parts.models.get("m").current_version == "1"


@virtual_time
async def test_redeployment_of_a_crashing_version_fails_soon_and_undoes_nothing(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        await parts.deployed("m:2")
        for number in range(2, 10):
            parts.manager.fail(f"c{number}", reason="bad weights")
            await until(lambda number=number: f"c{number + 1}" in parts.manager.live, 70)
        parts.manager.fails_with = [{"reason": "bad weights", "log_tail": "Traceback …"}] * 4
        parts.manager.fail("c10", reason="bad weights")
        begin = now()
        events = await parts.deploy("m:2", promote=True)
        steps = [event.step for event in events]
        assert (steps.count(DeployStep.RETRYING), steps[-1]) == (2, DeployStep.FAILED)
        assert events[-1].message == "m:2/0 failed: bad weights"
        assert events[-1].log_tail == "Traceback …"
        assert now() - begin == pytest.approx(1.5, abs=0.1)
        # Management keeps restarting the replica, and does not promote the version when it becomes
        # ready.
        await until(lambda: parts.reconciler.num_ready(ModelVersion("m", "2")) == 1, 70)
        assert parts.deployment("m:2").is_rolled_out
        assert not parts.deployment("m:2").promote_when_ready
        assert parts.models.get("m").current_version == "1"


@virtual_time
async def test_redeployment_of_a_version_scaled_to_zero_reports_preparation(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        await parts.deployments.scale("m", "1", 0)
        await until(lambda: not parts.manager.live)
        parts.manager.start_errors = [SkysailError("the environment was removed")]
        parts.manager.prepare_errors = [PrepareFailed("pip cannot install x")] * 2
        events = await parts.deploy("m:1")
        assert (events[-1].step, events[-1].message) == (DeployStep.FAILED, "pip cannot install x")
        assert parts.deployment("m:1").num_replicas == 1
        await until(lambda: parts.reconciler.num_ready(M1) == 1)


@virtual_time
async def test_redeployment_of_a_recovering_version_is_done(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.fail("c1")
        assert (await parts.deploy("m:1"))[-1].step is DeployStep.DONE
        # Later failures belong to no rollout.
        for number in range(2, 8):
            parts.manager.fail(f"c{number}", is_permanent=True)
            await until(lambda number=number: f"c{number + 1}" in parts.manager.live, 70)
        assert parts.deployment("m:1").is_rolled_out


@pytest.mark.parametrize(
    "spec",
    [
        {"num_threads": 2},
        {"memory_mib": 1},
        {"cpus": 0.5},
        {"gpus": 1},
        {"environment": {"A": "b"}},
    ],
)
@virtual_time
async def test_a_deployment_keeps_its_resources(tmp_path: Path, spec):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        with pytest.raises(FailedPrecondition, match="deployed with other resources"):
            await parts.deploy("m:1", **spec)
        await parts.deployments.undeploy("m", "1", force=False)
        await parts.deployed("m:1", **spec)


@pytest.mark.parametrize("spec", [{"cpus": -1.0}, {"cpus": float("nan")}, {"gpus": 1025}])
@virtual_time
async def test_resources_out_of_range_are_rejected(tmp_path: Path, spec):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(InvalidInput, match="cpus and gpus of a replica must be from 0 to"):
            await parts.deploy("m:1", **spec)


@virtual_time
async def test_resources_that_the_manager_lacks_are_rejected_at_once(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.max_gpus = 0
        with pytest.raises(Unsupported, match="no GPUs here"):
            await parts.deploy("m:1", gpus=1)
        assert parts.records.versions.get("m:1") is None


@virtual_time
async def test_disconnected_caller_does_not_stop_a_deployment(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        events = parts.deploying("m:1", await parts.upload(make_artifact()), promote=True)
        await anext(events)
        await events.aclose()
        await until(lambda: parts.models.get("m").current_version == "1")


@virtual_time
async def test_concurrent_callers_see_the_same_outcome(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.becomes_ready = False
        sha256 = await parts.upload(make_artifact())
        first = parts.deploying("m:1", sha256)
        await anext(first)
        await until(lambda: parts.manager.live)
        second = parts.deploying("m:1", sha256)
        await anext(second)
        parts.manager.fail("c1", reason="bad", is_permanent=True)
        *_, first_end = [event async for event in first]
        *_, second_end = [event async for event in second]
        assert first_end == second_end
        assert first_end.message == "m:1/0 failed: bad"
        assert parts.records.versions.all() == []


@virtual_time
async def test_slow_caller_still_gets_the_failure(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.becomes_ready = False
        events = parts.deploying("m:1", await parts.upload(make_artifact()), num_replicas=2)
        await anext(events)
        await until(lambda: len(parts.manager.live) == 2)
        parts.manager.fail("c2", reason="bad", is_permanent=True, log_tail="Traceback")
        await until(lambda: not parts.records.deployments.all())
        last = [event async for event in events][-1]
        assert (last.step, last.message) == (DeployStep.FAILED, "m:1/1 failed: bad")
        assert last.log_tail == "Traceback"


@virtual_time
async def test_following_a_deployment_has_a_time_limit(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.becomes_ready = False
        begin = now()
        events = await parts.deploy("m:1", num_replicas=2, start_timeout_s=5.0)
        assert events[-1].step is DeployStep.FAILED
        assert events[-1].message == "m:1 is not ready after 945 s; see its status"
        assert now() - begin == pytest.approx(945, abs=1)
        assert parts.deployment("m:1").is_rolled_out


@virtual_time
async def test_undeploy_rejects_invalid_requests(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(ModelNotFound):
            await parts.deployments.undeploy("m", "1", force=True)
        await parts.register("m:1")
        with pytest.raises(ModelNotFound, match="no current version"):
            await parts.deployments.undeploy("m", "", force=True)
        with pytest.raises(FailedPrecondition, match="'m:1' is not deployed"):
            await parts.deployments.undeploy("m", "1", force=True)


@virtual_time
async def test_undeploy_without_a_version_means_the_current_one(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        await parts.deployed("m:2")
        with pytest.raises(ModelInUse, match=r"'m:1' is the current version; promote .* use force"):
            await parts.deployments.undeploy("m", "", force=False)
        assert await parts.deployments.undeploy("m", "", force=True) == "1"
        assert [each.version for each in parts.records.deployments.all()] == ["2"]


@virtual_time
async def test_version_with_a_route_is_undeployed_by_force_only(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        await parts.deployed("m:2")
        await parts.applications.register("app", InputType.DOUBLES, 1.0, None)
        await parts.applications.set_routes("app", [RouteRecord(model="m")])
        with pytest.raises(ModelInUse, match="'app' is routed to model 'm:1'"):
            await parts.deployments.undeploy("m", "1", force=False)
        await parts.deployments.undeploy("m", "2", force=False)
        await parts.deployed("m:2")
        await parts.applications.set_routes("app", [RouteRecord(model="m", version="2")])
        with pytest.raises(ModelInUse, match="'app' is routed to model 'm:2'"):
            await parts.deployments.undeploy("m", "2", force=False)
        with pytest.raises(ModelInUse, match="'m:1' is the current version"):
            await parts.deployments.undeploy("m", "1", force=False)
        await parts.deployments.undeploy("m", "1", force=True)
        await parts.deployments.undeploy("m", "2", force=True)
        assert parts.records.deployments.all() == []


@virtual_time
async def test_scale_rejects_invalid_requests(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(ModelNotFound):
            await parts.deployments.scale("m", "1", 1)
        await parts.register("m:1")
        with pytest.raises(FailedPrecondition, match="'m:1' is not deployed"):
            await parts.deployments.scale("m", "1", 1)
        await parts.deployed("m:1", promote=True)
        with pytest.raises(InvalidInput, match="at most 1000"):
            await parts.deployments.scale("m", "1", 1001)
        assert await parts.deployments.scale("m", "", 0) == "1"
        assert parts.deployment("m:1").num_replicas == 0


@virtual_time
async def test_replicas_include_live_and_failed_ones(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(ModelNotFound):
            parts.deployments.replicas("m", "1", None)
        await parts.register("m:1")
        with pytest.raises(ReplicaNotFound, match="'m:1' has no replica"):
            parts.deployments.replicas("m", "1", None)
        await parts.deployed("m:1", num_replicas=2)
        parts.manager.fail("c2")
        await settle()
        found = parts.deployments.replicas("m", "1", None)
        assert [(box.container_id, box.state) for box in found] == [
            ("c1", ReplicaState.READY),
            ("c2", ReplicaState.FAILED),
        ]
        assert parts.deployments.replicas("m", "1", 1) == [found[1]]
        with pytest.raises(ReplicaNotFound, match="'m:1' has no replica 7"):
            parts.deployments.replicas("m", "1", 7)


@virtual_time
async def test_logs_of_several_replicas_have_their_ids(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        containers = parts.deployments.replicas("m", "1", None)
        lines = [item async for item in parts.deployments.logs(containers, 3, follow=False)]
        assert sorted(lines) == [
            ("m:1/0", "line 0 of c1"),
            ("m:1/0", "line 1 of c1"),
            ("m:1/0", "line 2 of c1"),
            ("m:1/1", "line 0 of c2"),
            ("m:1/1", "line 1 of c2"),
            ("m:1/1", "line 2 of c2"),
        ]


@virtual_time
@pytest.mark.parametrize("is_kept", [True, False])
async def test_the_log_of_a_failed_replica_comes_before_that_of_its_successor(
    tmp_path: Path, is_kept: bool
):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.fail("c1")
        await until(lambda: "c2" in parts.manager.ids(ReplicaState.READY))
        parts.manager.kept_logs.update(["c1"] if is_kept else [])
        containers = parts.deployments.replicas("m", "1", None)
        lines = [item async for item in parts.deployments.logs(containers, 2, follow=False)]
        of_the_first = [("m:1/0", "line 0 of c1"), ("m:1/0", "line 1 of c1")]
        assert lines == [
            *(of_the_first if is_kept else []),
            ("m:1/0", "line 0 of c2"),
            ("m:1/0", "line 1 of c2"),
        ]


@virtual_time
async def test_missing_log_is_not_found_after_the_other_logs(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        (box,) = parts.deployments.replicas("m", "1", None)
        read = []

        async def read_all() -> None:
            boxes = [replace(box, container_id="gone"), box]
            async for _, line in parts.deployments.logs(boxes, 2, follow=False):
                read.append(line)

        with pytest.raises(ReplicaNotFound):
            await read_all()
        assert read == ["line 0 of c1", "line 1 of c1"]


@virtual_time
async def test_cancelled_log_stream_leaves_no_reader(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        containers = parts.deployments.replicas("m", "1", None)
        lines = parts.deployments.logs(containers, 5000, follow=False)
        await anext(lines)
        await lines.aclose()


@virtual_time
async def test_events_of_an_earlier_request_are_not_delivered(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.becomes_ready = False
        events = parts.deploying("m:1", num_replicas=2)
        parts.store.gate = asyncio.Event()
        first = asyncio.ensure_future(anext(events))
        await settle()
        parts.events.publish(M1, DeployEvent(DeployStep.DONE, "of before"))
        parts.store.gate.set()
        await first
        parts.manager.becomes_ready = True
        await until(lambda: len(parts.manager.live) == 2)
        parts.manager.set_state("c2", ReplicaState.READY)
        last = [event async for event in events][-1]
        assert (last.step, last.num_ready) == (DeployStep.DONE, 2)

"""What management asks a replica before it counts as ready: other packages, a learned signature."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skysail_common.errors import NoReadyReplica, StoreUnavailable, Unavailable
from skysail_common.replica_description import PackageDifference, ReplicaDescription
from skysail_common.states import ReplicaState
from skysail_common.store import Table
from skysail_common.tensors import DataType, InputType, Signature, TensorSpec
from skysail_management.catalog.applications import ApplicationSpec
from skysail_management.events import DeployEvent, DeployStep
from skysail_management.records import RouteRecord
from skysail_testing.fake_containers import FakeContainerManager
from skysail_testing.management_parts import ManagementParts, make_artifact, running_parts
from skysail_testing.memory_store import MemoryStore
from skysail_testing.virtual_time import pass_time, settle, until, virtual_time
from unit.management.reconciler.rollouts import M1, steps

X = TensorSpec("x", DataType.FP64, (-1, 2))
Y = TensorSpec("y", DataType.FP64, (-1,))
UNKNOWN = Signature((X,), ())
LEARNED = Signature((X,), (Y,))
OTHER = Signature((X,), (replace(Y, datatype=DataType.INT64),))
NUMPY = PackageDifference("numpy", "1.26.4", "2.4.6")


def learned(signature: Signature | None = LEARNED) -> ReplicaDescription:
    return ReplicaDescription(signature)


async def deploy(parts: ManagementParts, *, signature=UNKNOWN, **spec: Any) -> list[DeployEvent]:
    sha256 = await parts.upload(make_artifact(signature=signature))
    return await parts.deploy("m:1", sha256, **{"promote": None, **spec})


def routed(parts: ManagementParts) -> list[str]:
    """Return the versions that frontends know."""
    (_, state) = parts.routing._sequence, parts.routing._state
    return [str(each.record.model_version) for each in state.versions]


@virtual_time
async def test_other_package_versions_are_a_notice_before_the_replica_is_ready(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.descriptions["m:1/0"] = ReplicaDescription(None, (NUMPY,))
        events = await deploy(parts, signature=LEARNED)
        told = [event for event in events if event.step is DeployStep.NOTICE]
        assert [event.message for event in told] == [
            "m:1/0: replicas have other package versions: numpy 2.4.6 (deployed with 1.26.4)"
        ]
        assert events.index(told[0]) < steps(events).index(DeployStep.READY)
        assert parts.reconciler.version_loop(M1).package_differences == (NUMPY,)
        parts.manager.fail("c1")
        parts.manager.descriptions.clear()
        await until(lambda: parts.manager.ids(ReplicaState.READY) == ["c2"])
        await until(lambda: parts.reconciler.num_ready(M1) == 1)
        assert parts.reconciler.version_loop(M1).package_differences == ()


@virtual_time
async def test_package_versions_of_a_replica_that_ends_while_it_drains_are_forgotten(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        parts.manager.descriptions["m:1/1"] = ReplicaDescription(None, (NUMPY,))
        await deploy(parts, signature=LEARNED, num_replicas=2)
        loop = parts.reconciler.version_loop(M1)
        assert loop.package_differences == (NUMPY,)
        parts.manager.stop_errors = [Unavailable("busy")]
        await parts.deployments.scale("m", "1", 1)
        await until(lambda: not parts.manager.stop_errors)
        (draining,) = (
            name
            for name, each in loop.replicas.live.items()
            if each.container.state is ReplicaState.DRAINING
        )
        parts.manager.fail(draining)
        await settle()
        assert loop.package_differences == ()


@virtual_time
async def test_an_answer_about_former_content_is_not_learned(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        former = await parts.upload(make_artifact(signature=UNKNOWN))
        loop = parts.reconciler.version_loop
        parts.manager.describe_errors = [Unavailable("no route")] * 999
        events = parts.deploying("m:1", former, promote=None)
        await anext(events)
        await until(lambda: parts.manager.num_descriptions > 0)
        (replica,) = parts.manager.live.values()
        assert await loop(M1).described(replica, "0" * 64, learned()) == ""
        assert not parts.models.version("m", "1").to_signature().is_known
        assert await loop(M1).described(replica, former, learned()) == ""
        assert parts.models.version("m", "1").to_signature() == LEARNED
        await events.aclose()


@virtual_time
async def test_a_replica_that_does_not_answer_is_ready_without_a_description(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.describe_errors = [Unavailable("no answer")] * 3
        assert steps(await deploy(parts, signature=LEARNED))[-1] is DeployStep.DONE
        assert parts.manager.num_descriptions == 3


@virtual_time
async def test_an_adopted_replica_stays_ready_while_it_is_asked(tmp_path: Path):
    store, manager = MemoryStore(), FakeContainerManager()
    async with running_parts(tmp_path, store, manager) as parts:
        await deploy(parts, signature=LEARNED)
    manager.describe_errors = [Unavailable("busy")]
    manager.descriptions["m:1/0"] = ReplicaDescription(None, (NUMPY,))
    async with running_parts(tmp_path, store, manager) as parts:
        assert parts.reconciler.num_ready(M1) == 1
        await until(lambda: parts.reconciler.version_loop(M1).package_differences == (NUMPY,))


@virtual_time
async def test_the_first_replica_learns_the_signature_before_the_version_is_routed(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.descriptions["m:1/0"] = learned()
        parts.store.fails_with = []
        parts.manager.describe_errors = [Unavailable("busy")] * 9
        application = ApplicationSpec("app", 0.5)
        sha256 = await parts.upload(make_artifact(signature=UNKNOWN))
        events = parts.deploying("m:1", sha256, promote=None, application=application)
        assert (await anext(events)).step is DeployStep.REGISTERED
        await until(lambda: parts.manager.num_descriptions == 4)
        assert not parts.models.version("m", "1").to_signature().is_known
        assert parts.reconciler.num_ready(M1) == 0
        assert routed(parts) == []
        with pytest.raises(NoReadyReplica):
            await parts.models.promote(M1)
        assert [event async for event in events][-1].step is DeployStep.DONE
        assert parts.models.version("m", "1").to_signature() == LEARNED
        assert routed(parts) == ["m:1"]
        rows = parts.store.rows
        before = rows[Table.VERSIONS]["m:1"].revision
        assert before == rows[Table.APPLICATIONS]["app"].revision


@virtual_time
async def test_a_second_replica_that_learns_another_signature_fails(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.descriptions |= {"m:1/0": learned(), "m:1/1": learned(OTHER)}
        events = await deploy(parts, num_replicas=2)
        assert events[-1].step is DeployStep.FAILED
        assert events[-1].message == (
            "m:1/1 failed: its model has the outputs y INT64 [-1], and that of an earlier replica "
            "has y FP64 [-1]; every replica must learn the same ones"
        )
        await until(lambda: parts.manager.ids() == [])
        assert parts.records.versions.all() == []


@virtual_time
async def test_a_later_replica_that_learns_another_signature_takes_no_queries(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.descriptions |= {"m:1/0": learned(), "m:1/1": learned(OTHER)}
        await deploy(parts)
        await parts.deployments.scale("m", "1", 2)
        await pass_time(5)
        assert parts.reconciler.num_ready(M1) == 1
        failure = parts.reconciler.version_loop(M1).replicas.last_failed(1)
        assert failure.is_permanent
        assert "every replica must learn the same ones" in failure.reason
        parts.manager.descriptions["m:1/1"] = learned()
        await until(lambda: parts.reconciler.num_ready(M1) == 2, 60)


@pytest.mark.parametrize("answer", [ReplicaDescription(), learned(UNKNOWN)])
@virtual_time
async def test_a_replica_that_learns_nothing_fails_for_good(tmp_path: Path, answer):
    async with running_parts(tmp_path) as parts:
        parts.manager.descriptions["m:1/0"] = answer
        events = await deploy(parts)
        assert events[-1].step is DeployStep.FAILED
        assert "it cannot learn the inputs and outputs of the model" in events[-1].message
        assert len(parts.manager.started) == 1
        assert parts.records.versions.all() == []


@virtual_time
async def test_a_learned_input_type_must_fit_the_routes(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:0")
        await parts.applications.register("app", InputType.DOUBLES, 1.0, None)
        await parts.applications.set_routes("app", [RouteRecord(model="m")])
        texts = Signature((TensorSpec("x", DataType.FP32, (-1, 2)),), (Y,))
        parts.manager.descriptions["m:1/0"] = learned(texts)
        events = await deploy(parts, signature=Signature((), ()))
        assert events[-1].step is DeployStep.FAILED
        assert "application 'app' takes doubles, but model 'm:1' takes floats" in events[-1].message


@virtual_time
async def test_a_commit_that_fails_is_repeated(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.descriptions["m:1/0"] = learned()
        parts.manager.becomes_ready = False
        sha256 = await parts.upload(make_artifact(signature=UNKNOWN))
        events = parts.deploying("m:1", sha256, promote=None)
        await anext(events)
        await until(lambda: parts.manager.ids() == ["c1"])
        parts.store.fails_with = [StoreUnavailable("gone")]
        parts.manager.set_state("c1", ReplicaState.READY)
        assert [event async for event in events][-1].step is DeployStep.DONE
        assert parts.models.version("m", "1").to_signature() == LEARNED


@virtual_time
async def test_the_next_management_learns_from_a_replica_that_is_ready(tmp_path: Path):
    store, manager = MemoryStore(), FakeContainerManager()
    manager.describe_errors = [Unavailable("busy")] * 99
    async with running_parts(tmp_path, store, manager) as parts:
        sha256 = await parts.upload(make_artifact(signature=UNKNOWN))
        events = parts.deploying("m:1", sha256, promote=None)
        await anext(events)
        await until(lambda: manager.num_descriptions > 0)
        await events.aclose()
    manager.describe_errors.clear()
    manager.descriptions["m:1/0"] = learned()
    async with running_parts(tmp_path, store, manager) as parts:
        await until(lambda: parts.deployment("m:1").is_rolled_out)
        await settle()
        assert parts.models.version("m", "1").to_signature() == LEARNED
        assert parts.models.get("m").current_version == "1"
        assert len(manager.started) == 1


@virtual_time
async def test_a_replica_that_is_never_described_is_not_ready_in_time(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.describe_errors = [Unavailable("no route")] * 999
        events = await deploy(parts, start_timeout_s=5.0)
        assert events[-1].step is DeployStep.FAILED
        assert "not ready within 5 s" in events[-1].message
        assert len(parts.manager.started) == 3

"""Deployments that register an application: its route appears with the ready version, or nothing."""

from pathlib import Path
from typing import Any

import pytest

from skysail_common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InputTypeMismatch,
    InvalidInput,
    SkysailError,
)
from skysail_common.states import ReplicaState
from skysail_common.store import Table
from skysail_common.tensors import InputType
from skysail_management.catalog.applications import ApplicationSpec
from skysail_management.events import DeployStep
from skysail_management.records import RouteRecord
from skysail_testing.fake_containers import FakeContainerManager
from skysail_testing.management_parts import ManagementParts, make_artifact, running_parts
from skysail_testing.memory_store import MemoryStore
from skysail_testing.virtual_time import until, virtual_time
from unit.management.reconciler.rollouts import M1, rolling_out, steps

ENDPOINT = ApplicationSpec("app", 0.5, "-1")
TO_MODEL = (RouteRecord(model="m"),)


async def deploy(parts: ManagementParts, name: str = "m:1", **spec: Any):
    sha256 = await parts.upload(make_artifact(name))
    spec = {"promote": None, "application": ENDPOINT, **spec}
    return await parts.deploy(name, sha256, **spec)


async def refused(parts: ManagementParts, error: type[SkysailError], **spec: Any) -> str:
    """Return why a deployment is refused, and check that it changed and started nothing."""
    commits, started = parts.store.num_commits, len(parts.manager.started)
    with pytest.raises(error) as raised:
        await deploy(parts, **spec)
    assert (parts.store.num_commits, len(parts.manager.started)) == (commits, started)
    return raised.value.message


def revisions(parts: ManagementParts) -> dict[str, int]:
    rows = parts.store.rows
    return {
        "application": rows[Table.APPLICATIONS]["app"].revision,
        "model": rows[Table.MODELS]["m"].revision,
        "deployment": rows[Table.DEPLOYMENTS]["m:1"].revision,
    }


@virtual_time
async def test_the_commit_that_completes_the_rollout_registers_and_routes(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        async with rolling_out(parts, promote=None, application=ENDPOINT) as events:
            assert parts.records.applications.all() == []
            parts.manager.set_state("c1", ReplicaState.READY)
            found = [event async for event in events]
        application = parts.applications.get("app")
        assert (application.input_type, application.slo_s) == (InputType.DOUBLES, 0.5)
        assert (application.default_output_json, application.routes) == ("-1", TO_MODEL)
        assert parts.models.get("m").current_version == "1"
        assert parts.deployment("m:1").application is None
        assert len(set(revisions(parts).values())) == 1
        last = [DeployStep.PROMOTED, DeployStep.ROUTED, DeployStep.DONE]
        assert steps(found)[-3:] == last
        assert found[-2].message == "application 'app' is routed to m"


@virtual_time
async def test_a_failed_deployment_leaves_nothing(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        async with rolling_out(parts, promote=None, application=ENDPOINT) as events:
            parts.manager.fail("c1", "cannot load", is_permanent=True)
            assert steps([event async for event in events])[-1] is DeployStep.FAILED
        assert parts.records.applications.all() == []
        assert parts.records.models.all() == []
        assert parts.records.versions.all() == []
        assert parts.records.deployments.all() == []


@virtual_time
async def test_a_repeated_call_changes_nothing(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await deploy(parts)
        commits = parts.store.num_commits
        assert steps(await deploy(parts)) == [DeployStep.REGISTERED, DeployStep.DONE]
        assert parts.store.num_commits == commits
        # A new version is served at the same endpoint, as is one that a caller names again.
        assert steps(await deploy(parts, "m:2"))[-1] is DeployStep.DONE
        assert parts.models.get("m").current_version == "2"
        assert parts.applications.get("app").routes == TO_MODEL
        assert steps(await deploy(parts, "m:1"))[-1] is DeployStep.DONE
        assert parts.models.get("m").current_version == "2"


@virtual_time
async def test_an_application_with_other_values_is_refused_before_anything_starts(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.applications.register("app", InputType.DOUBLES, 0.1, "-1")
        assert "registered with other values" in await refused(parts, AlreadyExists)
        await parts.deployed("other:1", promote=True)
        await parts.applications.update("app", 0.5, None)
        await parts.applications.set_routes("app", [RouteRecord(model="other")])
        text = await refused(parts, AlreadyExists)
        assert "routed to other models" in text
        assert "'skysail apps link app m'" in text
        assert parts.records.versions.get("m:1") is None
        # An application without routes gets the route.
        await parts.applications.set_routes("app", [])
        assert steps(await deploy(parts))[-1] is DeployStep.DONE
        assert parts.applications.get("app").routes == TO_MODEL


@virtual_time
async def test_impossible_requests_are_refused_before_anything_starts(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        text = await refused(parts, InvalidInput, promote=False)
        assert "leave out promote=False" in text
        for spec in (ApplicationSpec("a/b", 1.0), ApplicationSpec("app", 1.0, "{")):
            await refused(parts, InvalidInput, application=spec)
        texts = ApplicationSpec("app", 1.0, input_type=InputType.STRINGS)
        await refused(parts, InputTypeMismatch, application=texts)
        tensors = ApplicationSpec("app", 1.0, input_type=InputType.TENSORS)
        await deploy(parts, application=tensors)
        assert parts.applications.get("app").input_type is InputType.TENSORS
        # A call that names no type accepts that of the application.
        await deploy(parts, application=ApplicationSpec("app", 1.0))


@virtual_time
async def test_a_ready_version_gets_its_application_at_once(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        assert parts.models.get("m").current_version == ""
        events = await parts.deploy("m:1", promote=None, application=ENDPOINT)
        assert steps(events)[-3:] == [DeployStep.PROMOTED, DeployStep.ROUTED, DeployStep.DONE]
        assert len(parts.manager.started) == 1
        await parts.applications.unregister("app")
        await parts.deployments.scale("m", "1", 0)
        text = await refused(parts, FailedPrecondition)
        assert "it is scaled to 0; give num_replicas too" in text


@virtual_time
async def test_no_operator_changes_an_application_that_a_rollout_is_about_to_register(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        async with rolling_out(parts, promote=None, application=ENDPOINT) as events:
            with pytest.raises(FailedPrecondition, match="the deployment of m:1 is about to"):
                await parts.applications.register("app", InputType.DOUBLES, 9.0, None)
            await refused(parts, FailedPrecondition, name="n:1")
            other = ApplicationSpec("other", 1.0)
            with pytest.raises(FailedPrecondition, match="application 'app'; repeat the call"):
                await parts.deploy("m:1", promote=None, application=other)
            # An application with the same values gets the route of the rollout.
            await parts.applications.register("app", InputType.DOUBLES, 0.5, "-1")
            with pytest.raises(FailedPrecondition, match="repeat the call after the deployment"):
                await parts.applications.update("app", 9.0, None)
            with pytest.raises(InputTypeMismatch):
                await parts.register("m:2", InputType.STRINGS)
            parts.manager.set_state("c1", ReplicaState.READY)
            assert steps([event async for event in events])[-1] is DeployStep.DONE
        assert parts.applications.get("app").routes == TO_MODEL
        await parts.applications.update("app", 9.0, None)


@pytest.mark.parametrize("operation", ["undeploy", "scale"])
@virtual_time
async def test_an_operator_who_stops_the_rollout_cancels_its_application(tmp_path, operation):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        parts.manager.becomes_ready = False
        await parts.deployments.scale("m", "1", 2)
        events = parts.deploying("m:1", promote=None, application=ENDPOINT)
        assert (await anext(events)).step is DeployStep.REGISTERED
        if operation == "undeploy":
            await parts.deployments.undeploy("m", "1", True)
        else:
            await parts.deployments.scale("m", "1", 0)
        assert [event async for event in events][-1].step is DeployStep.FAILED
        parts.manager.becomes_ready = True
        await parts.deploy("m:1", num_replicas=1, promote=None)
        assert parts.records.applications.all() == []


@pytest.mark.parametrize("is_lost", [False, True])
@virtual_time
async def test_the_next_management_completes_what_one_that_died_began(tmp_path: Path, is_lost):
    """Management dies with a ready replica, before its commit or before the answer to it."""
    store, manager = MemoryStore(), FakeContainerManager()
    async with running_parts(tmp_path, store, manager) as parts:
        async with rolling_out(parts, promote=None, application=ENDPOINT):
            lock = parts.records.lock
            await lock.acquire()
            parts.manager.set_state("c1", ReplicaState.READY)
            await until(lambda: parts.reconciler.num_ready(M1) == 1)
            assert store.rows[Table.APPLICATIONS] == {}
            if is_lost:
                lock.release()
                await until(lambda: store.rows[Table.APPLICATIONS] != {})
    async with running_parts(tmp_path, store, manager) as parts:
        await until(lambda: parts.deployment("m:1").is_rolled_out)
        assert parts.applications.get("app").routes == TO_MODEL
        assert parts.models.get("m").current_version == "1"
        assert len(set(revisions(parts).values())) == 1


@virtual_time
async def test_the_next_management_undoes_what_cannot_be_completed(tmp_path: Path):
    store, manager = MemoryStore(), FakeContainerManager()
    async with running_parts(tmp_path, store, manager) as parts:
        async with rolling_out(parts, promote=None, application=ENDPOINT):
            pass
    manager.fails_with = [{"reason": "cannot load", "is_permanent": True}] * 2
    manager.live.clear()
    async with running_parts(tmp_path, store, manager) as parts:
        await until(lambda: parts.records.versions.all() == [])
        assert parts.records.applications.all() == []
        assert parts.records.deployments.all() == []

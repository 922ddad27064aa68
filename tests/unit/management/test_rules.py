"""The rules of the records, which every commit obeys."""

from pathlib import Path

import pytest

from skysail_common.errors import (
    InputTypeMismatch,
    ModelInUse,
    ModelNotFound,
    NoReadyReplica,
)
from skysail_common.identifiers import ModelVersion
from skysail_common.tensors import InputType
from skysail_management.records import PendingChange, RouteRecord
from skysail_testing.management_parts import ManagementParts, running_parts
from skysail_testing.virtual_time import until, virtual_time


async def serving(parts: ManagementParts, *routes: RouteRecord) -> None:
    """Serve `m:1`, have `m:2` beside it and `m:3` registered; route an application."""
    await parts.deployed("m:1", promote=True)
    await parts.deployed("m:2")
    await parts.register("m:3")
    await parts.applications.register("app", InputType.DOUBLES, 1.0, None)
    await parts.applications.set_routes("app", routes)


async def refused(parts: ManagementParts, *changes: PendingChange, is_forced: bool = False) -> str:
    """Return why changes are not committed, and see that nothing was changed."""
    commits = parts.store.num_commits
    with pytest.raises((ModelInUse, ModelNotFound, NoReadyReplica, InputTypeMismatch)) as raised:
        await parts.records.commit(changes, is_forced=is_forced)
    assert parts.store.num_commits == commits
    return raised.value.message


@pytest.mark.parametrize("is_forced", [False, True])
@virtual_time
async def test_a_version_becomes_current_only_with_a_ready_replica(tmp_path: Path, is_forced):
    async with running_parts(tmp_path) as parts:
        await serving(parts)
        model = parts.models.get("m")
        for version in ("3", "9"):
            put = parts.records.models.put(
                "m", model.model_copy(update={"current_version": version})
            )
            assert "has no ready replica" in await refused(parts, put, is_forced=is_forced)
        parts.manager.fail("c2")
        await until(lambda: parts.reconciler.num_ready(ModelVersion("m", "2")) == 0)
        put = parts.records.models.put("m", model.model_copy(update={"current_version": "2"}))
        assert "see 'skysail logs m:2'" in await refused(parts, put)


@virtual_time
async def test_a_model_keeps_its_current_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await serving(parts)
        model = parts.models.get("m")
        put = parts.records.models.put("m", model.model_copy(update={"current_version": ""}))
        assert "'m:1' is the current version" in await refused(parts, put, is_forced=True)
        # The rule also holds for an undeployed version, because only operators change the current
        # version.
        await parts.deployments.undeploy("m", "1", force=True)
        delete = parts.records.versions.delete("m:1")
        assert "'m:1' is the current version" in await refused(parts, delete)
        with pytest.raises(ModelInUse, match="'m:1' is the current version; promote another"):
            await parts.models.unregister_version(ModelVersion("m", "1"))


@pytest.mark.parametrize("routes", [(), (RouteRecord(model="m"),)])
@virtual_time
async def test_a_version_that_serves_stays_deployed(tmp_path: Path, routes):
    async with running_parts(tmp_path) as parts:
        await serving(parts, *routes)
        text = await refused(parts, parts.records.deployments.delete("m:1"))
        what = "'app' is routed to model 'm:1'" if routes else "'m:1' is the current version"
        assert what in text
        assert text.endswith("first, or use force (--force, or force=True in Python)")
        await parts.records.commit([parts.records.deployments.delete("m:1")], is_forced=True)


@virtual_time
async def test_a_version_that_a_route_names_stays(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        routes = [RouteRecord(model="m", version=version) for version in ("2", "3")]
        await serving(parts, *routes)
        records = parts.records
        assert "routed to model 'm:2'" in await refused(parts, records.deployments.delete("m:2"))
        delete = records.versions.delete("m:3")
        assert "routed to model 'm:3'" in await refused(parts, delete, is_forced=True)


@virtual_time
async def test_a_version_that_is_deployed_stays_registered(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await serving(parts)
        delete = parts.records.versions.delete("m:2")
        assert "'m:2' is deployed; undeploy it first: 'skysail undeploy m:2'" in await refused(
            parts, delete
        )
        await parts.records.commit([delete, parts.records.deployments.delete("m:2")])


@virtual_time
async def test_deployment_needs_a_registered_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await serving(parts)
        stray = parts.deployment("m:2").model_copy(update={"version": "9"})
        put = parts.records.deployments.put("m:9", stray)
        assert "'m:9' is deployed but not registered" in await refused(parts, put)


@virtual_time
async def test_a_new_version_fits_the_applications_of_its_model(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await serving(parts, RouteRecord(model="m"))
        await parts.register("text:1", InputType.STRINGS)
        odd = parts.models.version("text", "1").model_copy(update={"model": "m", "version": "9"})
        put = parts.records.versions.put("m:9", odd)
        refusal = await refused(parts, put)
        assert (
            "'app' takes doubles, but model 'm:9' takes strings; deploy the model with" in refusal
        )
        assert "input_type='doubles'" in refusal


@virtual_time
async def test_existing_violation_does_not_block_other_changes(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await serving(parts, RouteRecord(model="m"))
        check, parts.records.check = parts.records.check, None
        # An earlier Skysail may have left this state.
        model = parts.models.get("m").model_copy(update={"current_version": "9"})
        await parts.records.commit([parts.records.models.put("m", model)])
        dangling = parts.applications.get("app").model_copy(
            update={"routes": (RouteRecord(model="gone"),)}
        )
        await parts.records.commit([parts.records.applications.put("app", dangling)])
        parts.records.check = check
        await parts.applications.update("app", 2.0, None)
        await parts.models.promote(ModelVersion("m", "1"))


@virtual_time
async def test_whole_model_can_be_removed_at_once(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await serving(parts)
        for version in ("1", "2"):
            await parts.deployments.undeploy("m", version, force=True)
        await parts.models.unregister("m")
        assert parts.models.all() == []

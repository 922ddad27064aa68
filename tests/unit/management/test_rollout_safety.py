"""The limits of a rollout for a serving version, and the conditions of a promotion."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from skysail_common.errors import FailedPrecondition, NoReadyReplica
from skysail_common.identifiers import ModelVersion
from skysail_common.states import ReplicaState
from skysail_common.tensors import InputType
from skysail_management.events import DeployEvent, DeployStep
from skysail_management.records import RouteRecord
from skysail_testing.fake_containers import FakeContainerManager
from skysail_testing.management_parts import ManagementParts, make_artifact, running_parts
from skysail_testing.memory_store import MemoryStore
from skysail_testing.virtual_time import settle, until, virtual_time

M1 = ModelVersion("m", "1")
M2 = ModelVersion("m", "2")


def collect(parts: ManagementParts, name: str, sha256: str = "", **spec):
    """Deploy in the background and return the events as they come, and the task."""
    events: list[DeployEvent] = []

    async def follow() -> None:
        async for event in parts.deploying(name, sha256, **spec):
            events.append(event)  # noqa: PERF401 - seen while it goes on.

    return events, asyncio.ensure_future(follow())


async def half_ready(parts: ManagementParts, **spec):
    """Serve `m:1`, and roll out two replicas of `m:2`, of which one is ready."""
    await parts.deployed("m:1", promote=True)
    parts.manager.becomes_ready = False
    sha256 = await parts.upload(make_artifact("m:2"))
    events, following = collect(parts, "m:2", sha256, num_replicas=2, **spec)
    await until(lambda: len(parts.manager.live) == 3)
    parts.manager.set_state("c2", ReplicaState.READY)
    await settle()
    assert parts.reconciler.num_ready(M2) == 1
    return events, following


async def fail_the_other(parts: ManagementParts, following: asyncio.Future) -> None:
    parts.manager.fail("c3", reason="no memory", is_permanent=True)
    await following


@virtual_time
async def test_failed_rollout_keeps_a_manually_promoted_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        events, following = await half_ready(parts)
        assert await parts.models.promote(M2) == "1"
        await fail_the_other(parts, following)
        assert events[-1].step is DeployStep.FAILED
        assert events[-1].message == (
            "m:2/1 failed: no memory; m:2 stays deployed because it is the current version"
        )
        assert parts.models.get("m").current_version == "2"
        assert parts.reconciler.num_ready(M2) == 1
        assert parts.deployment("m:2").is_rolled_out
        assert not parts.deployment("m:2").removes_version_on_failure
        # The other replica is started again as that of any version.
        await until(lambda: len(parts.manager.ids(ReplicaState.STARTING)) == 1, 70)


@virtual_time
async def test_failed_rollout_keeps_a_version_with_a_route(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        events, following = await half_ready(parts)
        await parts.applications.register("app", InputType.DOUBLES, 1.0, None)
        routes = [RouteRecord(model="m", version="1"), RouteRecord(model="m", version="2")]
        await parts.applications.set_routes("app", routes)
        await fail_the_other(parts, following)
        assert events[-1].message.endswith(
            "m:2 stays deployed because application 'app' is routed to it"
        )
        assert parts.reconciler.num_ready(M2) == 1
        assert parts.models.version("m", "2").version == "2"


@virtual_time
async def test_failed_rollout_keeps_a_version_registered_meanwhile(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        events, following = await half_ready(parts)
        sha256 = parts.models.version("m", "2").artifact_sha256
        await parts.models.register(M2, sha256, {})
        await fail_the_other(parts, following)
        assert events[-1].message == "m:2/1 failed: no memory"
        assert parts.records.deployments.get("m:2") is None
        assert parts.models.version("m", "2").artifact_sha256 == sha256
        assert parts.artifacts.size_bytes(sha256) > 0


@virtual_time
async def test_once_current_version_stays_registered(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        _, following = await half_ready(parts)
        await parts.models.promote(M2)
        await parts.models.promote(M1)
        await fail_the_other(parts, following)
        assert parts.records.deployments.get("m:2") is None
        assert parts.models.get("m").previous_versions == ("2",)
        assert parts.models.version("m", "2").was_current


@virtual_time
async def test_rollback_during_a_rollout_is_kept_at_its_completion(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        events, following = await half_ready(parts, promote=True)
        await parts.models.promote(M2)
        assert await parts.models.rollback("m") == ("1", "2")
        parts.manager.set_state("c3", ReplicaState.READY)
        await following
        assert events[-1].step is DeployStep.DONE
        assert parts.models.get("m").current_version == "1"


@virtual_time
async def test_next_management_keeps_serving_replicas_of_a_failed_rollout(tmp_path: Path):
    store, manager = MemoryStore(), FakeContainerManager()
    async with running_parts(tmp_path, store, manager) as first:
        _, following = await half_ready(first)
        await first.models.promote(M2)
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
    async with running_parts(tmp_path, store, manager) as second:
        manager.fail("c3", reason="no memory", is_permanent=True)
        await until(lambda: second.deployment("m:2").is_rolled_out)
        assert second.models.get("m").current_version == "2"
        assert second.reconciler.num_ready(M2) == 1


@virtual_time
async def test_a_version_that_is_scaled_to_zero_is_not_promoted(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        await parts.deployed("m:2")
        await parts.deployments.scale("m", "2", 0)
        await until(lambda: parts.reconciler.num_ready(M2) == 0)
        sha256 = parts.models.version("m", "2").artifact_sha256
        with pytest.raises(
            FailedPrecondition, match="cannot promote model 'm:2': it is scaled to 0"
        ):
            await parts.deploy("m:2", sha256, promote=True)
        parts.manager.becomes_ready = False
        events, following = collect(parts, "m:2", num_replicas=1, promote=True)
        await until(lambda: len(parts.manager.live) == 2)
        await parts.deployments.scale("m", "2", 0)
        await following
        assert events[-1].step is DeployStep.FAILED
        assert events[-1].message == "m:2 was scaled to 0 during the deployment and is not promoted"
        await until(lambda: len(parts.manager.live) == 1)
        assert parts.models.get("m").current_version == "1"
        assert not parts.deployment("m:2").promote_when_ready


@virtual_time
async def test_replica_that_fails_during_a_slow_commit_does_not_count(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        parts.manager.becomes_ready = False
        sha256 = await parts.upload(make_artifact("m:2"))
        events, following = collect(parts, "m:2", sha256, promote=True)
        await until(lambda: len(parts.manager.live) == 2)
        async with parts.records.lock:
            # The rollout waits for the lock during another commit.
            parts.manager.set_state("c2", ReplicaState.READY)
            await settle()
            parts.manager.fail("c2")
            await settle()
        await settle()
        assert parts.models.get("m").current_version == "1"
        assert not parts.deployment("m:2").is_rolled_out
        await until(lambda: "c3" in parts.manager.live)
        parts.manager.set_state("c3", ReplicaState.READY)
        await following
        assert events[-1].step is DeployStep.DONE
        assert parts.models.get("m").current_version == "2"


@pytest.mark.parametrize(
    ("state", "fix"),
    [
        ("undeployed", "it is not deployed; start it with 'skysail start m:2' or client.start"),
        ("scaled", "it is scaled to 0; start it with 'skysail start m:2' or client.start"),
        ("failing", "its replicas are starting or failed; see 'skysail logs m:2'"),
    ],
)
@virtual_time
async def test_promotion_without_a_ready_replica_fails_with_the_fix(tmp_path: Path, state, fix):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        await parts.deployed("m:2")
        if state == "undeployed":
            await parts.deployments.undeploy("m", "2", force=False)
        elif state == "scaled":
            await parts.deployments.scale("m", "2", 0)
        else:
            parts.manager.becomes_ready = False
            parts.manager.fail("c2")
        await until(lambda: parts.reconciler.num_ready(M2) == 0)
        with pytest.raises(NoReadyReplica) as raised:
            await parts.models.promote(M2)
        assert fix in raised.value.message
        if state == "undeployed":
            with pytest.raises(FailedPrecondition, match="start it with 'skysail start m:2'"):
                await parts.deployments.scale("m", "2", 1)


@virtual_time
async def test_rollback_skips_versions_that_cannot_serve(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for version in ("1", "2", "3", "4"):
            await parts.deployed(f"m:{version}", promote=True)
        await parts.deployments.undeploy("m", "3", force=False)
        await parts.deployments.scale("m", "2", 0)
        await until(lambda: len(parts.manager.live) == 2)
        assert await parts.models.rollback("m") == ("1", "4")
        assert parts.models.get("m").previous_versions == ()


@pytest.mark.parametrize("stop", ["undeploy", "scale"])
@virtual_time
async def test_stopping_version_does_not_become_current(tmp_path: Path, stop):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True)
        await parts.deployed("m:2", promote=True)
        stopping = {
            "undeploy": lambda: parts.deployments.undeploy("m", "1", force=False),
            "scale": lambda: parts.deployments.scale("m", "1", 0),
        }
        found = await asyncio.gather(
            stopping[stop](),
            parts.models.rollback("m"),
            parts.models.promote(M1),
            return_exceptions=True,
        )
        # The replica is still ready, because the loop of the version did not run yet.
        assert [type(each) for each in found[1:]] == [NoReadyReplica, NoReadyReplica]
        assert parts.models.get("m").current_version == "2"


@virtual_time
async def test_failed_rollback_names_the_start_command(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        for version in ("1", "2", "3"):
            await parts.deployed(f"m:{version}", promote=True)
        for version in ("1", "2"):
            await parts.deployments.undeploy("m", version, force=False)
        await until(lambda: len(parts.manager.live) == 1)
        with pytest.raises(NoReadyReplica) as raised:
            await parts.models.rollback("m")
        assert raised.value.message == (
            "cannot roll back model 'm': no previous version has a ready replica; the latest is "
            "'m:2': it is not deployed; start it with 'skysail start m:2' or client.start('m', '2')"
        )
        assert parts.models.get("m").current_version == "3"
        await parts.deployed("m:2")
        assert await parts.models.rollback("m") == ("2", "3")

"""Repeated deployments: equal values change nothing; given values change with a notice."""

from pathlib import Path

import pytest

from skysail_common.errors import FailedPrecondition, ModelNotFound, Unsupported
from skysail_common.identifiers import ModelVersion
from skysail_common.serving_options import ServingOptions
from skysail_management.events import DeployEvent, DeployStep
from skysail_management.messages import deployment_spec_from_proto
from skysail_management.records import AutoscalingRecord
from skysail_protos.v1 import management_pb2
from skysail_testing.management_parts import ManagementParts, make_artifact, running_parts
from skysail_testing.virtual_time import settle, until, virtual_time

M1 = ModelVersion("m", "1")


async def run(parts: ManagementParts, name: str = "m:1", content: str = "m", **spec):
    """Deploy with minimal arguments, as a script does; return the events."""
    sha256 = await parts.upload(make_artifact(content))
    return await parts.deploy(name, sha256, **{"promote": None, **spec})


def notices(events: list[DeployEvent]) -> list[str]:
    assert events[-1].step is DeployStep.DONE, events[-1]
    return [event.message for event in events if event.step is DeployStep.NOTICE]


@virtual_time
async def test_repeated_deployment_writes_and_starts_nothing(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        spec = {
            "num_replicas": 2,
            "memory_mib": 100,
            "environment": {"A": "b"},
            "serving": {"max_batch_size": 8},
            "start_timeout_s": 600.0,
            "labels": {"team": "a"},
        }
        assert notices(await run(parts, **spec)) == []
        assert parts.models.get("m").current_version == "1"
        before, commits = parts.deployment("m:1"), parts.store.num_commits
        for again in (spec, {}):
            assert notices(await run(parts, **again)) == []
        assert parts.deployment("m:1") == before
        assert parts.store.num_commits == commits
        assert len(parts.manager.started) == 2


@virtual_time
async def test_changes_of_operators_stay(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, start_timeout_s=600.0)
        await parts.deployments.scale("m", "1", 8)
        await parts.deployments.tune("m", "1", {"cache_ttl_s": 60.0})
        await until(lambda: parts.reconciler.num_ready(M1) == 8)
        assert notices(await run(parts, serving={"max_batch_size": 32})) == [
            "max_batch_size changed from 64 to 32 because it was given"
        ]
        deployment = parts.deployment("m:1")
        assert (deployment.num_replicas, deployment.start_timeout_s) == (8, 600.0)
        assert deployment.serving == ServingOptions(max_batch_size=32, cache_ttl_s=60.0)
        await settle()
        assert parts.reconciler.num_ready(M1) == 8


@virtual_time
async def test_given_values_change_with_a_notice(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, num_replicas=3, labels={"team": "a"})
        events = await run(parts, num_replicas=1, start_timeout_s=5.0, labels={"git": "abc"})
        assert notices(events) == [
            "scaled 3 to 1 because num_replicas=1 was given",
            "start_timeout_s changed from 60 to 5 because it was given",
        ]
        assert parts.models.version("m", "1").labels == {"team": "a", "git": "abc"}
        await until(lambda: parts.reconciler.num_ready(M1) == 1)


@virtual_time
async def test_num_replicas_does_not_end_autoscaling(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, num_replicas=2)
        bounds = AutoscalingRecord(min_replicas=1, max_replicas=4)
        await parts.deployments.set_autoscaling("m", "1", bounds)
        (notice,) = notices(await run(parts, num_replicas=3))
        assert notice.startswith("2 replicas stay although num_replicas=3 was given: their number")
        assert parts.deployment("m:1").autoscaling == bounds
        assert notices(await run(parts, num_replicas=2)) == []


@virtual_time
async def test_other_resources_are_rejected_by_name_without_values(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, environment={"TOKEN": "secret"}, memory_mib=100)
        with pytest.raises(FailedPrecondition) as raised:
            await run(parts, environment={"TOKEN": "other"}, memory_mib=0)
        assert "(memory_mib, environment); undeploy it first" in raised.value.message
        assert "secret" not in raised.value.message
        await run(parts, environment={"TOKEN": "secret"})
        assert parts.deployment("m:1").resources.memory_mib == 100


@virtual_time
async def test_empty_environment_clears_and_none_keeps(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, "m:1", environment={"TOKEN": "secret"})
        with pytest.raises(FailedPrecondition, match=r"\(environment\); undeploy it first"):
            await run(parts, "m:1", environment={})
        for environment, left in ((None, {"TOKEN": "secret"}), ({}, {}), (None, {})):
            await parts.deployments.undeploy("m", "1", force=True)
            events = await parts.deploy("m:1", promote=None, environment=environment)
            assert events[-1].step is DeployStep.DONE
            assert parts.deployment("m:1").environment == left


def test_empty_environment_message_is_kept():
    def environment_of(**fields):
        request = management_pb2.DeployRequest(model="m", **fields)
        return deployment_spec_from_proto(request, 64).environment

    assert environment_of() is None
    assert environment_of(environment=management_pb2.Environment()) == {}
    given = management_pb2.Environment(variables={"A": "b"})
    assert environment_of(environment=given) == {"A": "b"}


@virtual_time
async def test_an_old_script_does_not_promote_again(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, "m:1", "1")
        await run(parts, "m:2", "2")
        assert parts.models.get("m").current_version == "2"
        (notice,) = notices(await run(parts, "m:1", "1"))
        assert notice == (
            "m:1 was current before and is not promoted again automatically; 'skysail promote m:1' "
            "or promote=True does that"
        )
        # The version is not promoted after an undeploy either.
        await parts.deployments.undeploy("m", "1", force=False)
        assert len(notices(await run(parts, "m:1", "1"))) == 1
        assert parts.models.get("m").current_version == "2"
        assert notices(await run(parts, "m:1", "1", promote=True)) == []
        assert parts.models.get("m").current_version == "1"


@virtual_time
async def test_a_version_that_was_never_current_stays_beside_it(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, "m:1", "1")
        await run(parts, "m:2", "2", promote=False)
        assert notices(await run(parts, "m:2", "2")) == []
        assert parts.models.get("m").current_version == "1"


@virtual_time
async def test_pending_promotion_survives_a_repeat_but_not_promote_false(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        parts.manager.becomes_ready = False
        sha256 = await parts.upload(make_artifact("m"))
        events = parts.deploying("m:1", sha256, promote=None)
        await anext(events)
        again = parts.deploying("m:1", sha256, promote=None)
        await anext(again)
        assert parts.deployment("m:1").promote_when_ready
        refusing = parts.deploying("m:1", sha256, promote=False)
        await anext(refusing)
        assert not parts.deployment("m:1").promote_when_ready
        for each in (events, again, refusing):
            await each.aclose()


@virtual_time
async def test_version_scaled_to_zero_stays_so_with_a_notice(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts)
        await parts.deployments.scale("m", "1", 0)
        await until(lambda: not parts.manager.live)
        (notice,) = notices(await run(parts))
        assert notice.startswith("m:1 stays scaled to 0; 'skysail start m:1' or num_replicas")
        assert not parts.manager.live


@virtual_time
async def test_start_restores_the_undeployed_values(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(
            parts, num_replicas=3, memory_mib=100, environment={"A": "b"}, start_timeout_s=9.0
        )
        await parts.deployments.tune("m", "1", {"cache_ttl_s": 60.0})
        before = parts.deployment("m:1")
        await parts.deployments.undeploy("m", "1", force=True)
        await until(lambda: not parts.manager.live)
        assert notices(await parts.deploy("m:1", promote=None)) == []
        assert parts.deployment("m:1") == before
        assert [spec.environment for spec in parts.manager.started[-3:]] == [{"A": "b"}] * 3
        assert parts.models.get("m").current_version == "1"


@virtual_time
async def test_start_applies_given_values_and_promotes_on_request_only(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, "m:1", "1")
        await run(parts, "m:2", "2", promote=False)
        await parts.deployments.undeploy("m", "2", force=False)
        await parts.deployed("m:2", promote=None, num_replicas=2, memory_mib=50)
        deployment = parts.deployment("m:2")
        assert (deployment.num_replicas, deployment.resources.memory_mib) == (2, 50)
        assert parts.models.get("m").current_version == "1"
        await parts.deployed("m:2", promote=True)
        assert parts.models.get("m").current_version == "2"


@virtual_time
async def test_start_scales_zero_to_one_and_keeps_a_running_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts)
        await parts.deployments.scale("m", "1", 0)
        await until(lambda: not parts.manager.live)
        # An empty version means the current one.
        events = await parts.deploy("m:", promote=None)
        assert (events[-1].step, events[-1].version) == (DeployStep.DONE, "1")
        await parts.deployments.scale("m", "1", 3)
        await until(lambda: parts.reconciler.num_ready(M1) == 3)
        await parts.deployed("m:1", promote=None)
        assert parts.deployment("m:1").num_replicas == 3


@virtual_time
async def test_deployment_with_an_artifact_uses_defaults_unlike_a_start(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, memory_mib=100, num_replicas=2)
        await parts.deployments.undeploy("m", "1", force=True)
        await run(parts)
        deployment = parts.deployment("m:1")
        assert (deployment.num_replicas, deployment.resources.memory_mib) == (1, 0)


@virtual_time
async def test_failed_start_keeps_the_version_registered(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, "m:1", "1")
        await run(parts, "m:2", "2", promote=False, memory_mib=7)
        await parts.deployments.undeploy("m", "2", force=False)
        parts.manager.fails_with = [{"is_permanent": True}]
        assert (await parts.deploy("m:2", promote=None))[-1].step is DeployStep.FAILED
        assert parts.records.deployments.get("m:2") is None
        await parts.deployed("m:2", promote=None)
        assert parts.deployment("m:2").resources.memory_mib == 7


@virtual_time
async def test_start_needs_a_manager_with_its_resources(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, gpus=1)
        await parts.deployments.undeploy("m", "1", force=True)
        parts.manager.max_gpus = 0
        with pytest.raises(Unsupported, match="no GPUs here"):
            await parts.deploy("m:1", promote=None)
        assert parts.records.deployments.get("m:1") is None
        await parts.deployed("m:1", promote=None, gpus=0)


@virtual_time
async def test_start_needs_a_registered_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for name in ("m:1", "m:"):
            with pytest.raises(ModelNotFound, match="is not registered"):
                await anext(parts.deploying(name))

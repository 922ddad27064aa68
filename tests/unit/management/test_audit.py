"""Each change of what operators asked for is a line in the log."""

import logging
from pathlib import Path

import pytest

from skysail_common.errors import StoreUnavailable
from skysail_common.identifiers import ModelVersion
from skysail_common.tensors import InputType
from skysail_management.records import AutoscalingRecord, ProfileRecord, RouteRecord
from skysail_testing.management_parts import make_artifact, running_parts
from skysail_testing.virtual_time import until, virtual_time

M1 = ModelVersion("m", "1")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    """Return the lines since the last call, each with its values."""
    known = set(vars(logging.makeLogRecord({}))) | {"message", "bound", "asctime"}

    def take() -> list[tuple[str, dict[str, str]]]:
        found = [
            (record.message, {k: v for k, v in vars(record).items() if k not in known})
            for record in caplog.records
            if record.name == "skysail_management.audit"
        ]
        caplog.clear()
        return found

    return take


@virtual_time
async def test_log_shows_the_life_of_a_version(tmp_path: Path, lines):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", promote=True, labels={"git": "abc"})
        sha256 = parts.models.version("m", "1").artifact_sha256
        assert lines() == [
            (
                "version registered",
                {"version": "m:1", "artifact_sha256": sha256, "labels": "git=abc"},
            ),
            ("model registered", {"model": "m"}),
            (
                "version deployed",
                {"version": "m:1", "num_replicas": "1", "promote_when_ready": "True"},
            ),
            ("rollout complete", {"version": "m:1", "is_rolled_out": "False → True"}),
            ("version promoted", {"model": "m", "current_version": "none → 1"}),
        ]
        await parts.deployed("m:2", promote=True)
        lines()
        await parts.models.rollback("m")
        assert lines() == [
            ("version rolled back", {"model": "m", "current_version": "2 → 1"}),
        ]
        await parts.deployments.scale("m", "1", 3)
        await parts.deployments.tune("m", "1", {"cache_ttl_s": 60.0, "max_queue_size": 9})
        bounds = AutoscalingRecord(min_replicas=1, max_replicas=2)
        await parts.deployments.set_autoscaling("m", "1", bounds)
        assert lines() == [
            ("version scaled", {"version": "m:1", "num_replicas": "1 → 3"}),
            (
                "version tuned",
                {"version": "m:1", "max_queue_size": "none → 9", "cache_ttl_s": "0.0 → 60.0"},
            ),
            (
                "version scaled",
                {
                    "version": "m:1",
                    "num_replicas": "3 → 2",
                    "autoscaling": "none → min_replicas=1 max_replicas=2",
                },
            ),
        ]
        await parts.deployments.undeploy("m", "2", force=False)
        await parts.models.unregister_version(ModelVersion("m", "2"))
        assert lines() == [
            ("version undeployed", {"version": "m:2"}),
            ("version unregistered", {"version": "m:2"}),
        ]


def test_changes_are_logged_at_any_level():
    assert logging.getLogger("skysail_management.audit").isEnabledFor(logging.INFO)


@virtual_time
async def test_log_shows_the_life_of_an_application(tmp_path: Path, lines):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        lines()
        await parts.applications.register("app", InputType.DOUBLES, 0.1, '"x"')
        await parts.applications.set_routes("app", [RouteRecord(model="m", weight=0.5)])
        await parts.applications.update("app", 0.2, None, removes_default_output=True)
        await parts.applications.unregister("app")
        assert [event for event, _ in lines()] == [
            "application registered",
            "application linked",
            "application changed",
            "application unregistered",
        ]


@virtual_time
async def test_failed_rollout_logs_the_reason_without_secrets(tmp_path: Path, lines):
    async with running_parts(tmp_path) as parts:
        parts.manager.fails_with = [{"is_permanent": True, "reason": "bad weights"}]
        sha256 = await parts.upload(make_artifact())
        await parts.deploy("m:1", sha256, environment={"TOKEN": "hidden"})
        found = lines()
        reason = {"version": "m:1", "reason": "m:1/0 failed: bad weights"}
        assert ("version undeployed", reason) in found
        assert ("version unregistered", reason) in found
        assert "hidden" not in str(found)


@virtual_time
async def test_uncommitted_changes_and_profiles_are_not_logged(tmp_path: Path, lines):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        lines()
        parts.store.fails_with = [StoreUnavailable("away")]
        with pytest.raises(StoreUnavailable):
            await parts.deployments.scale("m", "1", 2)
        await until(lambda: parts.reconciler.num_ready(M1) == 1)
        await parts.deployments.scale("m", "1", 1)
        profile = ProfileRecord(latencies=((1, 0.1),))
        await parts.records.commit([parts.records.profiles.put("m:1", profile)])
        assert lines() == []

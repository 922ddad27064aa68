import asyncio
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from skysail_common.errors import Conflict, FailedPrecondition, InvalidInput, StoreUnavailable
from skysail_common.states import ReplicaState
from skysail_management import messages
from skysail_management.autoscaler import Autoscaler
from skysail_management.reconciler.autoscaling import AutoscalingOptions
from skysail_management.records import AutoscalingRecord, DeploymentRecord
from skysail_protos.v1 import routing_pb2
from skysail_testing.management_parts import ManagementParts, make_artifact, running_parts
from skysail_testing.virtual_time import now, pass_time, settle, until, virtual_time

OPTIONS = AutoscalingOptions(target=0.7, shrink_after_s=60.0, report_timeout_s=10.0)
ONE_TO_5 = AutoscalingRecord(min_replicas=1, max_replicas=5)


def report(rows_per_s: float, version: str = "1", window_s: int = 2) -> routing_pb2.LoadReport:
    """Return a report about replicas of which each computes 100 rows a second."""
    return routing_pb2.LoadReport(
        model="m",
        version=version,
        window=Duration(seconds=window_s),
        arrived_rows=round(rows_per_s * window_s),
        capacity_rows_per_s=100.0,
    )


def autoscaler_of(parts: ManagementParts) -> Autoscaler:
    return Autoscaler(parts.records, parts.reconciler, OPTIONS, now)


async def follows_load(parts: ManagementParts, bounds: AutoscalingRecord = ONE_TO_5) -> Autoscaler:
    await parts.deployed("m:1")
    await parts.deployments.set_autoscaling("m", "1", bounds)
    return autoscaler_of(parts)


@virtual_time
async def test_reported_load_starts_and_stops_replicas(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        autoscaler = await follows_load(parts)
        await autoscaler.take("f1", [report(100)])
        assert parts.deployment("m:1").num_replicas == 2
        await autoscaler.take("f2", [report(100)])
        assert parts.deployment("m:1").num_replicas == 3
        await until(lambda: len(parts.manager.ids(ReplicaState.READY)) == 3)
        # The last report of f2 expires.
        for _ in range(40):
            await pass_time(2.0)
            await autoscaler.take("f1", [report(0)])
        assert parts.deployment("m:1").num_replicas == 2
        await until(lambda: len(parts.manager.ids()) == 2)


@virtual_time
async def test_load_of_a_version_without_autoscaling_changes_nothing(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        autoscaler = autoscaler_of(parts)
        await autoscaler.take("f1", [report(1000), report(1000, "2"), report(1000, window_s=0)])
        assert parts.deployment("m:1").num_replicas == 1
        assert parts.records.deployments.get("m:2") is None


@virtual_time
async def test_reports_of_a_disconnected_frontend_are_dropped(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        autoscaler = await follows_load(parts)
        await autoscaler.take("old", [report(60)])
        autoscaler.forget("old")
        # Its load arrives at another frontend now.
        await autoscaler.take("new", [report(60)])
        assert parts.deployment("m:1").num_replicas == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
@virtual_time
async def test_invalid_report_is_ignored(tmp_path: Path, number):
    async with running_parts(tmp_path) as parts:
        autoscaler = await follows_load(parts)
        for name in ("capacity_rows_per_s", "deadline_used"):
            wrong = report(500)
            setattr(wrong, name, number)
            await autoscaler.take("f1", [wrong])
        assert parts.deployment("m:1").num_replicas == 1


@virtual_time
async def test_rollout_completes_before_autoscaling(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.becomes_ready = False
        events = parts.deploying("m:1", await parts.upload(make_artifact()))
        await anext(events)
        await parts.deployments.set_autoscaling("m", "1", ONE_TO_5)
        autoscaler = autoscaler_of(parts)
        await autoscaler.take("f1", [report(1000)])
        assert parts.deployment("m:1").num_replicas == 1
        await until(lambda: parts.manager.ids())
        parts.manager.set_state("c1", ReplicaState.READY)
        await until(lambda: parts.deployment("m:1").is_rolled_out)
        await autoscaler.take("f1", [report(1000)])
        assert parts.deployment("m:1").num_replicas == 5
        await events.aclose()


@pytest.mark.parametrize("error", [Conflict("another"), StoreUnavailable("away")])
@virtual_time
async def test_failed_commit_is_retried_at_the_next_report(tmp_path: Path, monkeypatch, error):
    async with running_parts(tmp_path) as parts:
        autoscaler = await follows_load(parts)

        async def fail(changes: object, why: str) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(parts.records, "commit", fail)
            await autoscaler.take("f1", [report(100)])
        assert parts.deployment("m:1").num_replicas == 1
        await autoscaler.take("f1", [report(100)])
        assert parts.deployment("m:1").num_replicas == 2


@virtual_time
async def test_concurrent_change_by_an_operator_wins(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        autoscaler = await follows_load(parts)
        async with parts.records.lock:
            # The decision waits for the lock; the operator was first.
            taking = asyncio.ensure_future(autoscaler.take("f1", [report(100)]))
            await settle()
            changed = parts.deployment("m:1").model_copy(update={"num_replicas": 4})
            await parts.records.commit([parts.records.deployments.put("m:1", changed)])
        await taking
        assert parts.deployment("m:1").num_replicas == 4


@virtual_time
async def test_manual_scale_ends_autoscaling_but_redeployment_does_not(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        autoscaler = await follows_load(parts)
        await autoscaler.take("f1", [report(200)])
        await parts.deployed("m:1", num_replicas=1)
        assert parts.deployment("m:1").num_replicas == 3
        assert parts.deployment("m:1").autoscaling == ONE_TO_5
        await parts.deployments.scale("m", "1", 2)
        assert parts.deployment("m:1").autoscaling is None
        await autoscaler.take("f1", [report(500)])
        assert parts.deployment("m:1").num_replicas == 2
        await parts.deployments.set_autoscaling("m", "1", ONE_TO_5)
        assert (await parts.deployments.set_autoscaling("m", "1", None)).autoscaling is None


@pytest.mark.parametrize(("least", "most"), [(0, 1), (2, 1), (1, 1001)])
@virtual_time
async def test_invalid_bounds_are_rejected(tmp_path: Path, least, most):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        with pytest.raises(FailedPrecondition, match="is not deployed"):
            await parts.deployments.set_autoscaling("m", "1", ONE_TO_5)
        await parts.deployed("m:1")
        bounds = AutoscalingRecord(min_replicas=least, max_replicas=most)
        with pytest.raises(InvalidInput, match="min_replicas must be at least 1"):
            await parts.deployments.set_autoscaling("m", "1", bounds)


@virtual_time
async def test_bounds_apply_at_once_and_threads_follow_the_maximum(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    async with running_parts(tmp_path) as parts:
        await follows_load(parts, AutoscalingRecord(min_replicas=3, max_replicas=4))
        await until(lambda: len(parts.manager.ids(ReplicaState.READY)) == 3)
        assert [spec.resources.num_threads for spec in parts.manager.started] == [8, 2, 2]


def test_autoscaled_deployment_as_message():
    record = DeploymentRecord(
        model="m", version="1", num_replicas=2, start_timeout_s=1.0, autoscaling=ONE_TO_5
    )
    bounds = messages.deployment_to_proto(record).autoscaling
    assert (bounds.min_replicas, bounds.max_replicas) == (1, 5)
    without = record.model_copy(update={"autoscaling": None})
    assert not messages.deployment_to_proto(without).HasField("autoscaling")


@virtual_time
async def test_snapshot_requests_loads_of_autoscaled_versions(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await follows_load(parts)
        await parts.deployed("m:2")
        parts.reconciler.publish_routing()
        snapshot = messages.snapshot_to_proto(
            "c", 1, parts.routing._state, lambda _: (), load_report_interval_s=2.5
        )
        first, second = snapshot.versions
        assert first.load_report_interval.ToMilliseconds() == 2500
        assert not second.HasField("load_report_interval")

from pathlib import Path

import pytest

from skysail_common.errors import ContainerManagerUnavailable, SkysailError
from skysail_management.containers.base import PrepareFailed
from skysail_management.messages import version_to_proto
from skysail_testing.management_parts import running_parts
from skysail_testing.virtual_time import now, pass_time, settle, until, virtual_time
from unit.management.reconciler.rollouts import M1


@virtual_time
async def test_two_transient_failures_are_overcome(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.fails_with = [{"reason": "no port"}, {"reason": "no port"}]
        await parts.deployed("m:1")
        assert len(parts.manager.started) == 3
        assert parts.deployment("m:1").is_rolled_out


@virtual_time
async def test_preparation_retries_an_unreachable_engine(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.prepare_errors = [ContainerManagerUnavailable("no docker")] * 4
        begin = now()
        await parts.deployed("m:1")
        # Each wait is shorter by up to a half.
        assert (1 + 2 + 4 + 8) / 2 <= now() - begin <= 1 + 2 + 4 + 8 + 0.5


@virtual_time
async def test_start_retries_an_unreachable_engine(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_errors = [ContainerManagerUnavailable("no docker")] * 4
        await parts.deployed("m:1")
        assert parts.reconciler.version_loop(M1).replicas.num_restarts(0) == 0


@virtual_time
async def test_failed_start_is_retried_soon(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_errors = [SkysailError("no such file"), SkysailError("no such file")]
        begin = now()
        await parts.deployed("m:1")
        assert now() - begin == pytest.approx(1.5, abs=0.1)


@virtual_time
async def test_failed_start_prepares_again(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.start_errors = [SkysailError("the environment was removed")]
        await parts.deployed("m:1")
        assert len(parts.manager.prepared) == 2


@virtual_time
async def test_status_shows_a_failed_preparation_of_a_running_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        loop = parts.reconciler.version_loop(M1)
        reason = "m:1 was made with Python 3.11.7, and replicas here run Python 3.12"
        # The environment is prepared again, as after a restart of management.
        parts.manager.start_errors = [SkysailError("the environment was removed")]
        parts.manager.prepare_errors = [PrepareFailed(reason)] * 2
        parts.manager.fail("c1")
        await until(lambda: loop.replicas.failed and loop.replicas.failed[0].reason == reason)
        version = parts.records.versions.get("m:1")
        assert version is not None
        deployment = parts.records.deployments.get("m:1")
        message = version_to_proto(version, deployment, loop, is_current=True)
        (replica,) = message.replicas
        assert (replica.replica_id, replica.reason) == ("m:1/0", reason)
        await until(lambda: loop.num_ready == 1)
        assert loop.replicas.failed == {}


@virtual_time
async def test_failure_before_start_returns_leaves_no_container(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        parts.manager.fails_with = [{"reason": "at once"}]
        await parts.deployed("m:1")
        assert [box.container_id for box in parts.reconciler.containers()] == ["c2"]


@virtual_time
async def test_internal_error_does_not_end_the_loop(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.start_errors = [RuntimeError("a mistake")] * 4
        await parts.deployments.scale("m", "1", 2)
        await until(lambda: not parts.manager.start_errors, 60)
        assert parts.reconciler.num_ready(M1) == 1
        await until(lambda: parts.reconciler.num_ready(M1) == 2, 60)
        assert parts.manager.ids() == ["c1", "c2"]


@virtual_time
async def test_complete_deployment_restarts_replicas_with_backoff_forever(
    tmp_path: Path,
):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.becomes_ready = False
        waits = []
        for number in range(1, 12):
            failed = now()
            parts.manager.fail(f"c{number}", is_permanent=number % 2 == 0)
            await until(lambda number=number: f"c{number + 1}" in parts.manager.live, 70)
            waits.append(now() - failed)
        assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60], abs=0.05)
        assert parts.deployment("m:1").is_rolled_out
        assert parts.reconciler.version_loop(M1).replicas.num_restarts(0) == 11


@virtual_time
async def test_once_ready_replica_restarts_soon_after_each_crash(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        waits = []
        for number in range(1, 9):
            failed = now()
            parts.manager.fail(f"c{number}")
            await until(lambda number=number: f"c{number + 1}" in parts.manager.live, 70)
            waits.append(now() - failed)
        assert waits == pytest.approx([0.5, 1, 2, 4, 5, 5, 5, 5], abs=0.05)


@virtual_time
async def test_failures_are_reset_after_a_minute_of_health(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        loop = parts.reconciler.version_loop(M1)
        for number in range(1, 5):
            parts.manager.fail(f"c{number}")
            await until(lambda number=number: f"c{number + 1}" in parts.manager.live)
        assert loop.replicas.num_restarts(0) == 4
        await pass_time(61)
        failed = now()
        parts.manager.fail("c5")
        await until(lambda: "c6" in parts.manager.live)
        assert now() - failed == pytest.approx(0.5, abs=0.05)
        assert loop.replicas.num_restarts(0) == 1


@virtual_time
async def test_failed_replica_is_shown_until_its_index_is_live(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        parts.manager.fail("c2", reason="killed by SIGKILL")
        await settle()
        loop = parts.reconciler.version_loop(M1)
        assert loop.replicas.failed[1].reason == "killed by SIGKILL"
        assert loop.num_ready == 1
        await until(lambda: loop.num_ready == 2)
        assert loop.replicas.failed == {}

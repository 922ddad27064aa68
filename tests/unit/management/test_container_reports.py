"""What becomes of the reports about containers that are lost, strange, or never come again."""

from dataclasses import replace
from pathlib import Path

import pytest

from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.states import ReplicaState
from skysail_management.reconciler.version_loop import VersionLoop
from skysail_testing.management_parts import running_parts
from skysail_testing.virtual_time import pass_time, settle, until, virtual_time

M1 = ModelVersion("m", "1")


@virtual_time
async def test_failing_report_does_not_block_others(tmp_path: Path, monkeypatch, caplog):
    observe = VersionLoop.observe
    num_taken = 0

    def observed(self, container, **options):
        nonlocal num_taken
        num_taken += 1
        if container.container_id == "c1" and num_taken == 1:
            raise KeyError("a bug")
        observe(self, container, **options)

    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)
        monkeypatch.setattr(VersionLoop, "observe", observed)
        parts.manager.fail("c1")
        parts.manager.fail("c2")
        await until(lambda: "c3" in parts.manager.ids())
        assert parts.reconciler.containers()[-1].replica_id == ReplicaId(M1, 1)
        assert "KeyError: 'a bug'" in caplog.text
        # The report that was not taken costs one resync.
        await until(lambda: parts.manager.ids() == ["c3", "c4"], 45)
        assert parts.reconciler.num_ready(M1) == 2


@pytest.mark.parametrize("task", ["_watch", "_resync_often"])
@virtual_time
async def test_end_of_an_essential_task_ends_management(tmp_path: Path, task: str):
    with pytest.MonkeyPatch.context() as patch:

        async def ends(self) -> None:
            return

        patch.setattr(f"skysail_management.reconciler.reconciler.Reconciler.{task}", ends)
        async with running_parts(tmp_path) as parts:
            await settle()
            (failure,) = parts.failures
            assert "ended" in str(failure)
            parts.failures.clear()


@virtual_time
async def test_failed_watch_of_the_manager_ends_management(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        parts.manager.changes.fail(KeyError("a bug"))
        await settle()
        (failure,) = parts.failures
        assert "watch of the container manager ended" in str(failure)
        # The running containers stay for the next management.
        assert parts.manager.ids() == ["c1"]
        parts.failures.clear()


@virtual_time
async def test_unexpected_error_of_a_stop_ends_management(tmp_path: Path, monkeypatch):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=2)

        loop = parts.reconciler.version_loop(M1)
        assert loop is not None
        monkeypatch.setattr(type(loop), "_stop", fails_async(KeyError("a bug")))
        await parts.deployments.scale("m", "1", 1)
        await until(lambda: parts.failures)
        assert isinstance(parts.failures.pop(), KeyError)


def fails_async(error: Exception):
    async def fails(*_: object) -> None:
        raise error

    return fails


@virtual_time
async def test_failure_reported_twice_counts_once_with_the_later_report(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        box = parts.manager.live["c1"]
        parts.manager.lose("c1")
        await until(lambda: parts.manager.ids() == ["c2"], 62)
        loop = parts.reconciler.version_loop(M1)
        assert loop is not None
        failed = loop.replicas.last_failed(0)
        assert failed is not None
        assert failed.reason == "it disappeared"
        # The manager has found it out, too.
        known = replace(box, state=ReplicaState.FAILED, reason="killed by SIGKILL")
        parts.manager.changes.publish(known)
        await settle()
        assert loop.replicas.last_failed(0) == known
        assert loop.replicas.num_restarts(0) == 1
        assert parts.manager.ids() == ["c2"]


@virtual_time
async def test_failed_sweep_is_harmless(tmp_path: Path, caplog):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        await parts.deployed("m:2")
        parts.manager.sweep_errors = [OSError("disk"), KeyError("a bug")]
        await parts.deployments.undeploy("m", "2", force=True)
        await pass_time(40)
        assert parts.manager.sweep_errors == []
        assert "OSError: disk" in caplog.text
        parts.manager.fail("c1")
        await until(lambda: parts.reconciler.num_ready(M1) == 1)

"""Guarantees of the local container manager alone."""

import asyncio
import json
import os
import platform
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from skysail_common.errors import SkysailError, Unsupported
from skysail_common.resources import Resources
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container, PrepareFailed
from skysail_management.containers.local import process_launch, work_directories
from skysail_management.containers.local.environments import environment_key
from skysail_management.containers.local.manager import LocalProcessManager
from skysail_management.containers.local.process_records import ProcessRecord
from skysail_management.containers.local.processes import (
    is_same_process,
    process_start,
    wait_for_exit,
)
from skysail_testing.artifact_server import ArtifactServer
from skysail_testing.container_managers import (
    LocalBackend,
    ManagerHarness,
    ask,
    make_wheel,
    open_harness,
    running_backend,
)


@pytest.fixture
async def backend_and_server(tmp_path: Path) -> AsyncIterator[tuple[LocalBackend, ArtifactServer]]:
    async with running_backend("local", tmp_path / "d") as (backend, server):
        assert isinstance(backend, LocalBackend)
        yield backend, server


@pytest.fixture
async def harness(backend_and_server) -> AsyncIterator[ManagerHarness]:
    async with open_harness(*backend_and_server) as harness:
        yield harness


def echo(texts):
    return list(texts)


async def test_wrong_python_error_names_both_versions(harness: ManagerHarness):
    other = replace(harness.version(echo), python_version="3.7.16")
    with pytest.raises(PrepareFailed) as caught:
        await harness.manager.prepare(other, lambda line: None)
    major, minor, _ = platform.python_version_tuple()
    assert caught.value.message == (
        f"m:1 was made with Python 3.7.16, and replicas here run Python {major}.{minor}: make it "
        f"with {major}.{minor}, or start the cluster with Python 3.7"
    )


def test_cpus_are_accepted_and_gpus_that_are_absent_rejected(backend_and_server):
    manager = backend_and_server[0].make_manager()
    manager.check_resources(Resources(cpus=64.0))
    with pytest.raises(Unsupported, match=r"cannot reserve a GPU: .* finds none on this machine"):
        manager.check_resources(Resources(gpus=1))


async def test_stopped_replica_leaves_nothing(backend_and_server):
    backend, _ = backend_and_server
    async with open_harness(*backend_and_server) as harness:
        container = await harness.start_ready(harness.version(echo))
        socket = Path(container.endpoint.removeprefix("unix:"))
        assert socket.is_socket()
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        await harness.manager.stop(container.container_id, 10.0)
        await harness.ended(container)
        assert not socket.exists()
        assert list((backend.directory / "replicas").iterdir()) == []
    assert not (backend.directory / "sockets").exists()


async def test_child_processes_end_with_their_replica(backend_and_server, harness: ManagerHarness):
    def starts_a_child(texts):
        import subprocess

        return [str(subprocess.Popen(["sleep", "1000"]).pid) for _ in texts]

    for how in ("stopped", "killed"):
        container = await harness.start_ready(harness.version(starts_a_child))
        (pid,) = await ask(container, "?")
        assert psutil.pid_exists(int(pid))
        gone = asyncio.create_task(wait_for_exit(int(pid)))
        if how == "stopped":
            await harness.manager.stop(container.container_id, 10.0)
        else:
            await harness.backend.kill(container)
        await asyncio.wait_for(gone, 10)


async def test_unrecorded_process_is_killed_by_the_next_manager(backend_and_server):
    backend, _ = backend_and_server
    async with open_harness(*backend_and_server) as first:
        container = await first.start_ready(first.version(echo))
        pid = backend.pid(container)
        directory = backend.directory / "replicas" / container.container_id
        (directory / "container.json").unlink()
    gone = asyncio.create_task(wait_for_exit(pid))
    async with open_harness(*backend_and_server) as second:
        await asyncio.wait_for(gone, 10)
        assert await second.manager.list() == []
        await second.manager.sweep(lambda: [second.version(echo)])
        assert not directory.exists()
    Path(container.endpoint.removeprefix("unix:")).unlink(missing_ok=True)


async def test_process_with_a_reused_pid_is_left_alone(backend_and_server):
    backend, _ = backend_and_server
    async with open_harness(*backend_and_server) as first:
        container = await first.start_ready(first.version(echo))
        await first.backend.kill(container)
        await first.ended(container)
    record = backend.directory / "replicas" / container.container_id / "container.json"
    stranger = {**json.loads(record.read_text()), "pid": os.getpid()}
    record.write_text(json.dumps(stranger))
    async with open_harness(*backend_and_server) as second:
        assert await second.manager.list() == []
        await second.manager.stop(container.container_id, 0.0)


@pytest.mark.parametrize("is_ours", [True, False])
async def test_orphans_of_a_replica_are_killed_by_the_next_manager(
    backend_and_server, is_ours: bool
):
    backend, _ = backend_and_server
    async with open_harness(*backend_and_server) as first:
        container = await first.start_ready(first.version(echo))
        await first.backend.kill(container)
        await first.ended(container)
    directory = backend.directory / "replicas" / container.container_id
    # The pairs are a dead session leader and its child process, of Skysail or of another program.
    log = directory / "replica.log"
    name = "SKYSAIL_MODEL_SERVER_LOG_FILE"
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 1000 >/dev/null & echo $!"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, name: str(log if is_ours else log.with_name("other.log"))},
    )
    left = psutil.Process(int(leader.communicate()[0]))
    record = json.loads((directory / "container.json").read_text())
    (directory / "container.json").write_text(json.dumps({**record, "pid": leader.pid}))
    gone = asyncio.create_task(wait_for_exit(left.pid))
    async with open_harness(*backend_and_server) as second:
        assert await second.manager.list() == []
    if not is_ours:
        assert left.status() != psutil.STATUS_ZOMBIE
        left.kill()
    await asyncio.wait_for(gone, 10)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"replica_id": "x"}', "null"])
async def test_damaged_record_is_ignored(backend_and_server, text: str):
    backend, _ = backend_and_server
    directory = backend.directory / "replicas" / "m.1.0-damaged"
    (directory / "work").mkdir(parents=True)
    (directory / "container.json").write_text(text)
    (backend.directory / "replicas" / "a-file").write_text("")
    async with open_harness(*backend_and_server) as harness:
        assert await harness.manager.list() == []
        await harness.manager.sweep(lambda: [])
        assert not directory.exists()


async def test_failed_start_leaves_nothing(
    backend_and_server, harness: ManagerHarness, tmp_path: Path
):
    backend, _ = backend_and_server
    wheel = make_wheel(tmp_path, "skytestwheel", "")
    spec = harness.version(echo, requirements=[str(wheel)])
    await harness.manager.prepare(spec, lambda line: None)
    python = backend.directory / "environments" / environment_key(spec.requirements) / "bin/python"
    python.unlink()
    # The file exists, but is not executable.
    python.write_text("")
    with pytest.raises(SkysailError, match="cannot start its process"):
        await harness.start(spec)
    assert list((backend.directory / "replicas").iterdir()) == []
    (backend.directory / "replicas").rmdir()
    (backend.directory / "replicas").write_text("not a directory")
    with pytest.raises(SkysailError, match="cannot start its process"):
        await harness.start(harness.version(echo))
    (backend.directory / "replicas").unlink()
    (backend.directory / "replicas").mkdir()


async def test_process_that_cannot_be_recorded_is_killed(
    backend_and_server, harness: ManagerHarness, monkeypatch
):
    started: list[int] = []

    def fails(replica: ProcessRecord) -> None:
        started.append(replica.pid)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(process_launch, "write_record", fails)
    with pytest.raises(SkysailError, match=r"cannot start its process: .*No space left on device"):
        await harness.start(harness.version(echo))
    (pid,) = started
    assert not psutil.pid_exists(pid)
    assert await harness.manager.list() == []
    assert list((backend_and_server[0].directory / "replicas").iterdir()) == []


async def test_directories_are_removed_outside_the_event_loop(harness: ManagerHarness, monkeypatch):
    threads: list[threading.Thread] = []
    rmtree = shutil.rmtree

    def recording_rmtree(*args: Any, **kwargs: Any) -> None:
        threads.append(threading.current_thread())
        rmtree(*args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", recording_rmtree)
    spec = harness.version(echo)
    stopped, *failed = await asyncio.gather(
        *(harness.start_ready(spec, index) for index in range(3))
    )
    await harness.manager.stop(stopped.container_id, 10.0)
    await harness.ended(stopped)
    for container in failed:
        await harness.backend.kill(container)
        await harness.ended(container)
    await harness.manager.sweep(lambda: [])
    # Of a failed replica the artifact goes first, and the directory with the log later.
    assert len(threads) == 5
    assert threading.main_thread() not in threads


async def test_following_a_log_survives_its_rotation(backend_and_server, harness: ManagerHarness):
    backend, _ = backend_and_server
    container = await harness.start_ready(harness.version(echo))
    log = backend.directory / "replicas" / container.container_id / "replica.log"
    expected = []
    async with aclosing(harness.manager.logs(container.container_id, 1, follow=True)) as lines:
        await anext(lines)
        for number in range(5):
            with log.open("a") as file:
                file.write(f"last {number}\n")
            log.rename(log.with_name("replica.log.1"))
            log.write_text(f"first {number}\n")
            expected = [f"last {number}", f"first {number}"]
            got = [await asyncio.wait_for(anext(lines), 10) for _ in expected]
            assert got == expected
            assert await harness.log(container, 2) == expected


async def test_temporary_files_are_in_the_work_directory_under_a_short_link(
    backend_and_server, harness: ManagerHarness
):
    def names_them(texts):
        import os
        import tempfile

        return [f"{tempfile.gettempdir()} {os.getcwd()}" for _ in texts]

    container = await harness.start_ready(harness.version(names_them))
    link = short_name(container)
    work = backend_and_server[0].directory / "replicas" / container.container_id / "work"
    assert await ask(container, "x") == [f"{link} {work}"]
    assert link.is_symlink()
    assert link.stat().st_mode & 0o777 == 0o700
    await harness.manager.stop(container.container_id, 10.0)
    assert not link.is_symlink()


def short_name(container: Container) -> Path:
    return Path("/tmp") / f"skysail-{container.container_id.rpartition('-')[2]}"


async def test_next_manager_removes_short_links_of_ended_replicas(backend_and_server):
    async with open_harness(*backend_and_server) as first:
        container = await first.start_ready(first.version(echo))
        await first.backend.kill(container)
        await first.ended(container)
        assert not short_name(container).is_symlink()
        work = backend_and_server[0].directory / "replicas" / container.container_id / "work"
        # The link stays as after a crash of the manager.
        short_name(container).symlink_to(work.resolve())
    async with open_harness(*backend_and_server):
        assert not short_name(container).is_symlink()


async def test_replica_runs_without_a_short_link(harness: ManagerHarness, monkeypatch, tmp_path):
    monkeypatch.setattr(work_directories, "_SHORT_PLACE", tmp_path / "no-such-place")
    container = await harness.start_ready(harness.version(echo))
    assert await ask(container, "x") == ["x"]
    await harness.manager.stop(container.container_id, 10.0)


async def test_the_log_tail_begins_with_a_whole_line(harness: ManagerHarness):
    def talks(texts):
        import os

        for number in range(2000):
            print(f"line {number:04}", flush=True)
        os._exit(1)

    container = await harness.start_ready(harness.version(talks))
    asking = asyncio.create_task(ask(container, "x"))
    failed = await harness.ended(container)
    await asyncio.gather(asking, return_exceptions=True)
    assert failed.state is ReplicaState.FAILED
    lines = failed.log_tail.splitlines()
    assert lines[-1] == "line 1999"
    assert all(len(line) == len("line 0000") for line in lines)
    assert 7000 < len(failed.log_tail) <= 8192


async def test_process_start_identifies_a_process():
    start = process_start(os.getpid())
    assert start is not None
    assert is_same_process(os.getpid(), start)
    assert not is_same_process(os.getpid(), start._replace(ticks=start.ticks - 10))
    assert not is_same_process(os.getpid(), start._replace(boot_id="another"))
    assert not is_same_process(2**22 + 1, start)
    await asyncio.wait_for(wait_for_exit(2**22 + 1), 5)


async def test_a_manager_that_was_never_opened_can_be_closed(tmp_path: Path):
    await LocalProcessManager(tmp_path, "test", {}, {}).close()

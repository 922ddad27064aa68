import os
from pathlib import Path

import pytest

from skysail_management.containers.local import processes
from skysail_management.containers.local.processes import NO_START, is_same_process, process_start


@pytest.fixture
def proc(tmp_path: Path, monkeypatch) -> Path:
    """A /proc with a boot of the machine, and without processes."""
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "stat").write_text("")
    boot(tmp_path, "first")
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    return tmp_path


def boot(proc: Path, boot_id: str) -> None:
    (proc / "sys/kernel/random/boot_id").write_text(f"{boot_id}\n")


def add(proc: Path, pid: int, ticks: int, state: str = "S", name: str = "python") -> None:
    (proc / str(pid)).mkdir(exist_ok=True)
    fields = [state, *["1"] * 18, str(ticks), *["1"] * 30]
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


def test_a_process_is_known_by_its_pid_its_ticks_and_the_boot(proc: Path):
    add(proc, 7, 1234)
    start = process_start(7)
    assert start == ("first", 1234.0)
    assert is_same_process(7, start)
    add(proc, 7, 1235)
    assert not is_same_process(7, start)
    add(proc, 7, 1234)
    boot(proc, "second")
    assert not is_same_process(7, start)


def test_a_step_of_the_wall_clock_moves_no_start(proc: Path):
    (proc / "stat").write_text("btime 1700000000\n")
    add(proc, 7, 1234)
    start = process_start(7)
    (proc / "stat").write_text("btime 1700000005\n")
    assert is_same_process(7, start)


@pytest.mark.parametrize("name", ["a b", ") S 1 1", "((", "Z) Z"])
def test_the_name_of_a_process_may_hold_anything(proc: Path, name: str):
    add(proc, 7, 99, name=name)
    assert process_start(7).ticks == 99.0


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_process_that_only_waits_for_its_parent_is_gone(proc: Path, state: str):
    add(proc, 7, 99, state)
    assert process_start(7) == NO_START
    assert process_start(8) == NO_START
    # What was gone before its start was read is never found again.
    assert not is_same_process(7, NO_START)


def test_without_proc_the_system_is_asked_otherwise(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    start = process_start(os.getpid())
    assert start.boot_id == ""
    assert start.ticks > 1e9
    assert is_same_process(os.getpid(), start)
    assert process_start(2**22 + 1) == NO_START

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


def test_pid_ticks_and_boot_identify_a_process(proc: Path):
    add(proc, 7, 1234)
    start = process_start(7)
    assert start == ("first", 1234.0)
    assert is_same_process(7, start)
    add(proc, 7, 1235)
    assert not is_same_process(7, start)
    add(proc, 7, 1234)
    boot(proc, "second")
    assert not is_same_process(7, start)


def test_wall_clock_step_does_not_move_the_start(proc: Path):
    (proc / "stat").write_text("btime 1700000000\n")
    add(proc, 7, 1234)
    start = process_start(7)
    (proc / "stat").write_text("btime 1700000005\n")
    assert is_same_process(7, start)


@pytest.mark.parametrize("name", ["a b", ") S 1 1", "((", "Z) Z"])
def test_process_name_may_contain_any_character(proc: Path, name: str):
    add(proc, 7, 99, name=name)
    assert process_start(7).ticks == 99.0


@pytest.mark.parametrize("state", ["Z", "X"])
def test_zombie_counts_as_gone(proc: Path, state: str):
    add(proc, 7, 99, state)
    assert process_start(7) == NO_START
    assert process_start(8) == NO_START
    # A process that ended before its start was read is never identified.
    assert not is_same_process(7, NO_START)


def test_psutil_is_used_without_proc(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    start = process_start(os.getpid())
    assert start.boot_id == ""
    assert start.ticks > 1e9
    assert is_same_process(os.getpid(), start)
    assert process_start(2**22 + 1) == NO_START

"""Processes by pid, started by this management or an earlier one."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

import psutil

_POLL_S = 0.2
_PROC = Path("/proc")
_STATE, _START_TICKS = 0, 19
"""Fields of /proc/<pid>/stat after the name of the process."""


class ProcessStart(NamedTuple):
    """The start of a process by a clock that nobody adjusts; orders the processes of one boot.

    A pid and a start identify a process forever; a pid alone is reused. On Linux the start excludes
    the wall clock, because a step of that clock would move it.
    """

    boot_id: str
    """Id of the boot of the machine; empty if the system has none."""
    ticks: float
    """Ticks since that boot; seconds since the epoch on systems without ticks."""


NO_START = ProcessStart("", 0.0)
"""The start of a process that ended before it could be read."""


def process_start(pid: int) -> ProcessStart:
    """Return the start of a live process; `NO_START` if it ended."""
    if not (_PROC / "self" / "stat").exists():
        return _start_by_psutil(pid)
    try:
        # The name of the process may contain spaces and parentheses.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return NO_START
    is_gone = fields[_STATE] in ("Z", "X")
    return NO_START if is_gone else ProcessStart(this_boot(), float(fields[_START_TICKS]))


def this_boot() -> str:
    """Return the id of the present boot of the machine; empty if the system has none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_by_psutil(pid: int) -> ProcessStart:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return NO_START
        return ProcessStart("", float(process.create_time()))
    except psutil.NoSuchProcess:
        return NO_START


def is_same_process(pid: int, start: ProcessStart) -> bool:
    """Return whether the process with this pid and start still lives."""
    return start != NO_START and process_start(pid) == start


async def wait_for_exit(pid: int) -> None:
    """Return when the process is gone, whether it is a child or not."""
    if not hasattr(os, "pidfd_open"):
        # Systems other than Linux can only be polled.
        while process_start(pid) != NO_START:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def signal_session(pid: int, number: signal.Signals) -> None:
    """Send a signal to a session leader and to all processes of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a single process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_orphans(leader: int, variable: str, value: str) -> None:
    """Kill the orphans of a dead session leader, if its group is still its own.

    The kernel reuses the pid of the leader only after the last process of its group ended. An
    inherited environment variable identifies such a process.
    """
    if any(
        _has_variable(pid, variable, value)
        for pid in psutil.pids()
        if _process_group(pid) == leader
    ):
        signal_session(leader, signal.SIGKILL)


def _process_group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _has_variable(pid: int, variable: str, value: str) -> bool:
    try:
        return psutil.Process(pid).environ().get(variable) == value
    except psutil.Error:
        return False


def kill_processes_in(directory: Path) -> None:
    """Kill every process with this working directory."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()) == directory:
                signal_session(process.pid, signal.SIGKILL)

"""Processes by pid, whether we started them or an earlier management did."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import psutil

_POLL_S = 0.2
_SAME_START_S = 1.0


def started_at(pid: int) -> float | None:
    """Return when a live process was started, as seconds since the epoch; None if it is gone.

    A pid and the start of its process name a process for good; a pid alone is used again.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def is_same_process(pid: int, start: float) -> bool:
    """Tell whether the process that was started then under this pid still lives."""
    now = started_at(pid)
    return now is not None and abs(now - start) < _SAME_START_S


async def wait_for_exit(pid: int) -> None:
    """Return when the process is gone; it need not be a child."""
    if not hasattr(os, "pidfd_open"):
        # Other systems than Linux can only be asked.
        while started_at(pid) is not None:  # noqa: ASYNC110
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
    """Send a signal to a process that leads a session, and to all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and to none that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_remains(leader: int, variable: str, value: str) -> None:
    """Kill what a process that led a session has left behind, if its session is still that.

    Its number is given to no other process while one that it started lives; that one is known by
    a variable of the environment, which it has inherited.
    """
    if any(_has(pid, variable, value) for pid in psutil.pids() if _group_of(pid) == leader):
        signal_session(leader, signal.SIGKILL)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _has(pid: int, variable: str, value: str) -> bool:
    try:
        return psutil.Process(pid).environ().get(variable) == value
    except psutil.Error:
        return False


def kill_processes_in(directory: Path) -> None:
    """Kill every process whose working directory this is."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()) == directory:
                signal_session(process.pid, signal.SIGKILL)

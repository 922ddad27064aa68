import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
import pytest

from skysail_common.errors import StoreUnavailable
from skysail_common.process import child_process as child_module
from skysail_common.process import watchdog
from skysail_common.process.child_process import Child, StartFailed, Watch
from skysail_testing.clock import FakeClock

PATH = {"PATH": "/usr/bin:/bin"}
FOR_EVER = "exec sleep 1000"


@pytest.fixture(autouse=True)
def _tries_again_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(child_module, "_FIRST_RETRY_S", 0.0)
    monkeypatch.setattr(watchdog, "_EVERY_S", 0.0)


class Runs:
    """A child that is something else in each run."""

    def __init__(self, *runs: "str | Callable[[], Sequence[str]]", **options: Any) -> None:
        self.child = Child("service", self._command, PATH, **options)
        self.on_command: Callable[[], None] = lambda: None
        self.all_begun = asyncio.Event()
        self._runs = list(runs)

    def _command(self, bound: Mapping[str, str]) -> Sequence[str]:
        self.on_command()
        run = self._runs.pop(0)
        if not self._runs:
            self.all_begun.set()
        return run() if callable(run) else ["sh", "-c", run]

    async def keep_running_until_the_last(self) -> None:
        """Keep it running until its last run has begun, then stop it."""
        keeping = asyncio.create_task(self.child.keep_running())
        begun = asyncio.create_task(self.all_begun.wait())
        await asyncio.wait({keeping, begun}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert begun.done()
        assert not keeping.done()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await self.child.stop(10.0)
        assert not psutil.pid_exists(self.child.pid)


async def test_a_slow_start_does_not_end_supervision():
    pids: list[int] = []

    def slow() -> Sequence[str]:
        runs.child._start_timeout_s = 0.05
        return ["sh", "-c", FOR_EVER]

    def normal() -> Sequence[str]:
        pids.append(runs.child.pid)
        runs.child._start_timeout_s = 30.0
        return ["sh", "-c", "echo listening service run=3"]

    runs = Runs("echo listening service run=1", slow, normal, FOR_EVER)
    await runs.child.start()
    assert runs.child.bound == {"run": "1"}
    await runs.keep_running_until_the_last()
    assert runs.child.bound == {"run": "3"}
    # The slow one is gone.
    assert not psutil.pid_exists(pids[0])


async def test_a_child_that_hangs_is_replaced(clock: FakeClock):
    hangs = "trap '' ABRT TERM; echo listening service run=1; kill -STOP $$"
    asked: list[str] = []
    has_successor = asyncio.Event()

    async def answers(bound: Mapping[str, str]) -> bool:
        asked.append(bound["run"])
        clock.advance(1.0)
        if asked.count("2") == 20:
            has_successor.set()
        return bound["run"] == "2"

    watch = Watch(answers, patience_s=1.0, limit_s=10.0)
    runs = Runs(hangs, f"echo listening service run=2; {FOR_EVER}", watch=watch, clock=clock)
    await runs.child.start()
    hung = runs.child.pid
    keeping = asyncio.create_task(runs.child.keep_running())
    await has_successor.wait()
    assert asked.count("1") == 10
    assert not psutil.pid_exists(hung)
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await runs.child.stop(10.0)


async def test_a_child_in_an_endless_loop_writes_where_it_is(capfd):
    program = "\n".join(
        (
            "import faulthandler",
            "def spin():",
            "    print('listening service', flush=True)",
            "    while True: pass",
            "faulthandler.enable()",
            "spin()",
        )
    )
    asked = False

    async def answers(bound: Mapping[str, str]) -> bool:
        nonlocal asked
        was_asked, asked = asked, True
        return was_asked

    watch = Watch(answers, patience_s=1.0, limit_s=1e-9)
    runs = Runs(lambda: [sys.executable, "-c", program], FOR_EVER, watch=watch)
    await runs.child.start()
    await runs.keep_running_until_the_last()
    assert "in spin" in capfd.readouterr().err


async def test_what_a_dead_child_left_serves_until_the_next_is_ready():
    left = "sleep 1000 >&2 & echo listening service left=$!"
    runs = Runs(left, f"echo listening service; {FOR_EVER}", hands_over=True)
    await runs.child.start()
    orphan = psutil.Process(int(runs.child.bound["left"]))
    began: list[bool] = []
    runs.on_command = lambda: began.append(orphan.is_running())
    await runs.keep_running_until_the_last()
    assert began == [True]
    assert not orphan.is_running()


async def test_what_a_dead_child_left_ends_with_the_supervisor():
    runs = Runs("sleep 1000 >&2 & echo listening service left=$!", hands_over=True)
    await runs.child.start()
    orphan = psutil.Process(int(runs.child.bound["left"]))
    await runs.child.stop(10.0)
    assert not orphan.is_running()


async def test_what_cannot_be_started_is_tried_again():
    def no_program() -> Sequence[str]:
        return ["/nowhere/program"]

    def no_store() -> Sequence[str]:
        raise StoreUnavailable("gone")

    runs = Runs("echo listening service", no_program, no_store, "exit 3", FOR_EVER)
    await runs.child.start()
    await runs.keep_running_until_the_last()


class Waits:
    """A back-off that waits for nothing and notes what it was asked."""

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    def next_s(self) -> float:
        self._asked.append("wait")
        return 0.0

    def reset(self) -> None:
        self._asked.append("reset")


async def test_a_child_that_ends_again_and_again_is_started_less_and_less_often(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(child_module, "BackOff", lambda *_: Waits(asked))
    # When each run was ready, and when it ended.
    times = iter([0.0, 1.0, 2.0, 3.0, 4.0, 100.0, 101.0, 102.0, 103.0])
    ready = ["echo listening service"] * 4
    runs = Runs(*ready, f"echo listening service; {FOR_EVER}", clock=lambda: next(times))
    await runs.child.start()
    await runs.keep_running_until_the_last()
    assert asked == ["wait", "wait", "reset", "wait"]


async def test_output_without_line_ends_does_not_end_supervision(capfdbinary):
    runs = Runs("echo listening service; head -c 3000000 /dev/zero", FOR_EVER)
    await runs.child.start()
    await runs.keep_running_until_the_last()


async def test_a_child_that_is_not_ready_in_time_is_killed():
    child = Child("service", lambda _: ["sh", "-c", FOR_EVER], PATH, start_timeout_s=0.05)
    with pytest.raises(StartFailed, match=r"service was not ready within 0\.05 s"):
        await child.start()
    assert not psutil.pid_exists(child.pid)

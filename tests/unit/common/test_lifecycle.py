import asyncio
import os
import signal

import pytest

from skysail_common.errors import SkysailError
from skysail_common.process.lifecycle import BackgroundTasks, stop_event, wait_for_end


async def test_a_process_runs_until_its_stop_event():
    stop = asyncio.Event()
    needed = asyncio.create_task(asyncio.Event().wait(), name="follow")
    waiting = asyncio.create_task(wait_for_end(stop, [needed]))
    await asyncio.sleep(0)
    assert not waiting.done()
    stop.set()
    await waiting
    needed.cancel()


@pytest.mark.parametrize("error", [None, ValueError("bug")])
async def test_the_end_of_an_essential_task_is_an_error(error: Exception | None):
    async def ends() -> None:
        if error is not None:
            raise error

    needed = asyncio.create_task(ends(), name="follow")
    with pytest.raises(SkysailError, match="'follow' ended"):
        await wait_for_end(asyncio.Event(), [needed])
    assert needed.done()
    assert needed.exception() is error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_stop_signal_sets_the_event(number: signal.Signals):
    event = stop_event()
    try:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(event.wait(), 5)
    finally:
        _forget_signals()


async def test_nohup_keeps_a_process_when_its_terminal_closes():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        event = stop_event()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(event.wait(), 5)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        _forget_signals()
        signal.signal(signal.SIGHUP, before)


def _forget_signals() -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)


async def test_a_failure_reaches_the_owner_of_its_group():
    told: list[BaseException] = []
    root = BackgroundTasks(told.append)
    part = root.group()
    error = ValueError("bug")

    async def fails() -> None:
        raise error

    await asyncio.wait({part.start(fails(), "part")})
    assert told == [error]


@pytest.mark.parametrize("ends", ["silently", "cancelled", "failed"])
async def test_any_end_of_an_essential_task_reaches_the_owner(ends: str):
    told: list[BaseException] = []
    tasks = BackgroundTasks(told.append)

    async def work() -> None:
        if ends == "cancelled":
            raise asyncio.CancelledError
        if ends == "failed":
            raise ValueError("bug")

    await asyncio.wait({tasks.start_essential(work(), "watch")})
    assert [type(error) for error in told] == [ValueError if ends == "failed" else SkysailError]
    if ends != "failed":
        assert "'watch' ended" in str(told[0])


async def test_stopping_an_essential_task_is_not_a_failure():
    told: list[BaseException] = []
    tasks = BackgroundTasks(told.append)
    tasks.start_essential(asyncio.Event().wait(), "watch")
    await asyncio.sleep(0)
    await tasks.stop()
    tasks.start(asyncio.sleep(0), "another")
    await tasks.stop()
    assert told == []

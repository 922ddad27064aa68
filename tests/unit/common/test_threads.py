import asyncio
import threading

import pytest

from skysail_common.process.threads import in_thread


async def test_work_runs_in_a_thread():
    def work(a: int, b: int = 0) -> tuple[int, bool]:
        return a + b, threading.current_thread() is threading.main_thread()

    assert await in_thread(work, 1, b=2) == (3, False)


async def test_an_error_of_the_work_propagates():
    with pytest.raises(FileNotFoundError):
        await in_thread(open, "/nowhere")


async def test_a_cancelled_caller_continues_after_the_work_has_ended():
    begun, end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    ended = []

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        end.wait(10)
        ended.append("work")
        raise OSError("nobody hears this")

    async def call() -> None:
        try:
            await in_thread(work)
        finally:
            ended.append("caller")

    calling = asyncio.create_task(call())
    await begun.wait()
    calling.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not calling.done()
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert ended == ["work", "caller"]

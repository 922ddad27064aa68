"""The stacks of calls that have not returned."""

import asyncio
import threading

from skysail_common.model_functions import call_coroutine_function, call_function
from skysail_common.process.coroutine_thread import CoroutineThread
from skysail_model_server.user_stacks import running_frames, waiting_frames


def names(frames) -> list[str]:
    return [frame.f_code.co_name for frame in frames]


def test_the_stack_of_a_thread_that_runs_the_function():
    begun, done = threading.Event(), threading.Event()

    def inner():
        begun.set()
        done.wait(10)

    def function(x):
        inner()

    thread = threading.Thread(target=call_function, args=[function, "array", {"x": 1}])
    thread.start()
    begun.wait(10)
    try:
        assert names(running_frames())[-2:] == ["inner", "function"]
    finally:
        done.set()
        thread.join(10)
    assert running_frames() == []


def test_the_stack_of_a_coroutine_that_waits():
    thread = CoroutineThread()
    begun = threading.Event()

    async def inner():
        begun.set()
        await asyncio.Event().wait()

    async def function(x):
        await inner()

    work = call_coroutine_function(function, "array", {"x": 1})
    future = asyncio.run_coroutine_threadsafe(work, thread.loop)
    begun.wait(10)
    try:
        # The thread that runs the event loop may still be in the coroutine.
        while "wait" not in (found := names(waiting_frames(thread.loop))):
            pass
        assert found[-2:] == ["inner", "function"]
    finally:
        future.cancel()
        thread.close()

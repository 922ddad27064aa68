"""Blocking calls in threads, for code on an event loop."""

import asyncio
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")


async def in_thread(
    work: Callable[ParamsT, ResultT], *args: ParamsT.args, **kwargs: ParamsT.kwargs
) -> ResultT:
    """Run a blocking function in a thread and return its result.

    Unlike `asyncio.to_thread`, a cancelled call returns only after the function has ended, so that
    the caller can safely close or remove the objects of the function.
    """
    call = functools.partial(work, *args, **kwargs)
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        if not future.cancelled():
            # The read marks the exception as retrieved, because no caller awaits it.
            future.exception()
        raise

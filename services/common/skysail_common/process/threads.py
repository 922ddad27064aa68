"""Blocking work beside an event loop."""

import asyncio
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")


async def in_thread(
    work: Callable[ParamsT, ResultT], *args: ParamsT.args, **kwargs: ParamsT.kwargs
) -> ResultT:
    """Do blocking work in a thread and return its result.

    Unlike that of `asyncio.to_thread`, a caller that is cancelled goes on only when the work has
    ended, so that it may close or remove what was worked on.
    """
    call = functools.partial(work, *args, **kwargs)
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        if not future.cancelled():
            # Nobody asks what came of it.
            future.exception()
        raise

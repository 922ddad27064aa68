import asyncio

import pytest

from skysail_common.errors import SkysailError
from skysail_common.lifecycle import wait_for_end


async def test_a_process_waits_until_it_is_told_to_stop():
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

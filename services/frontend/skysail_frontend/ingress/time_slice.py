"""Long work of one request, in turns that leave the event loop to others."""

import asyncio
from typing import Any

from skysail_common.clock import MONOTONIC, Clock

_TURN_S = 0.002

_LONG_COPY_BYTES = 4 * 1024 * 1024
"""Bytes whose copy takes a millisecond or more."""


class TimeSlice:
    """The time for which one request has kept the loop."""

    def __init__(self, clock: Clock = MONOTONIC) -> None:
        self._clock = clock
        self._until = clock() + _TURN_S

    async def end_if_long(self) -> None:
        """Leave the loop to others if they have waited for some milliseconds."""
        if self._clock() >= self._until:
            await asyncio.sleep(0)
            self._until = self._clock() + _TURN_S


async def free(items: list[Any], time_slice: TimeSlice) -> None:
    """Empty a list item by item; to free thousands at once takes long, too."""
    while items:
        items.pop()
        await time_slice.end_if_long()


async def join(parts: list[bytes], separator: bytes = b"") -> bytes:
    """Return the parts as one; a long copy is made beside the loop."""
    if len(parts) == 1:
        return parts[0]
    if sum(map(len, parts)) < _LONG_COPY_BYTES:
        return separator.join(parts)
    # CPython lets other threads run while it joins long parts.
    return await asyncio.to_thread(separator.join, parts)

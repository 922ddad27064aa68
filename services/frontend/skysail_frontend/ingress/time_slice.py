"""Time slices, in which a long request yields the event loop to others."""

import asyncio
from typing import Any

from skysail_common.clock import MONOTONIC, Clock

_SLICE_S = 0.002

_LONG_COPY_BYTES = 4 * 1024 * 1024
"""Bytes whose copy takes a millisecond or more."""


class TimeSlice:
    """The time for which one request may hold the event loop."""

    def __init__(self, clock: Clock = MONOTONIC) -> None:
        self._clock = clock
        self._until = clock() + _SLICE_S

    async def yield_if_over(self) -> None:
        """Yield the event loop if the slice is used up, and start another slice."""
        if self._clock() >= self._until:
            await asyncio.sleep(0)
            self._until = self._clock() + _SLICE_S


async def free(items: list[Any], time_slice: TimeSlice) -> None:
    """Empty a list item by item, because freeing thousands at once would block the loop."""
    while items:
        items.pop()
        await time_slice.yield_if_over()


async def join(parts: list[bytes], separator: bytes = b"") -> bytes:
    """Return the joined parts; a thread makes a long copy."""
    if len(parts) == 1:
        return parts[0]
    if sum(map(len, parts)) < _LONG_COPY_BYTES:
        return separator.join(parts)
    # CPython releases the interpreter while it joins long parts.
    return await asyncio.to_thread(separator.join, parts)

"""Large buffers of a pickle, which travel beside it without a copy."""

import pickle
from collections.abc import Sequence

MIN_BYTES = 64 * 1024
"""Smallest buffer that travels by itself; a smaller one is part of the pickle."""

MAX_COPIED_BYTES = 64 * 1024 * 1024
"""Most bytes of all copies of buffers of one pickle."""


class Buffers:
    """The large buffers of one pickle, in the order in which it refers to them."""

    def __init__(self) -> None:
        self.found: list[memoryview] = []
        """Views of the memory of the user's own objects."""

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a large buffer, and return whether the pickle must contain it instead."""
        content = buffer.raw()
        if content.nbytes < MIN_BYTES:
            return True
        self.found.append(content)
        return False


def copy_small(buffers: Sequence[memoryview]) -> list[bytes | memoryview]:
    """Return the buffers in their order, the smallest of them as copies.

    A function may change its arrays while it answers an example, such as a cache or the target of an
    `out=` argument. The copies have the state before. A change of the others shows in their SHA-256.
    """
    found: list[bytes | memoryview] = list(buffers)
    left = MAX_COPIED_BYTES
    for index in sorted(range(len(buffers)), key=lambda index: buffers[index].nbytes):
        left -= buffers[index].nbytes
        if left < 0:
            break
        found[index] = bytes(buffers[index])
    return found

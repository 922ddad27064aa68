"""Large buffers of a pickle, which travel beside it without a copy."""

import pickle

MIN_BYTES = 64 * 1024
"""Smallest buffer that travels by itself; a smaller one is part of the pickle."""


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

"""How long to wait between attempts.

Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015, "Equal Jitter". Without
chance, all clients that a server has lost ask its successor in step.
"""

from collections.abc import Callable
from random import random

_JITTER = 0.5
"""Share of a wait that is left to chance."""


class BackOff:
    """Waits that double with each attempt, up to a limit; each is shorter by up to a half by chance."""

    def __init__(self, first_s: float, max_s: float, chance: Callable[[], float] = random) -> None:
        """Begin with the shortest waits.

        Args:
            first_s: Longest first wait, in seconds.
            max_s: Longest wait, in seconds.
            chance: Returns a number from 0 to 1.
        """
        self._first_s = min(first_s, max_s)
        self._max_s = max_s
        self._next_s = self._first_s
        self._chance = chance

    @property
    def is_reset(self) -> bool:
        """True while no attempt has failed since the beginning or the last success."""
        return self._next_s == self._first_s

    def next_s(self) -> float:
        """Return how long to wait before the next attempt, in seconds."""
        longest_s = self._next_s
        self._next_s = min(longest_s * 2, self._max_s)
        return longest_s * (1 - _JITTER * self._chance())

    def reset(self) -> None:
        """Return to the shortest waits: an attempt succeeded."""
        self._next_s = self._first_s

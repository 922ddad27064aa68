"""Exponential backoff with jitter between attempts.

Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015, "Equal Jitter". Without
jitter, all clients of a lost server would call its successor at the same instants.
"""

from collections.abc import Callable
from random import random

_JITTER = 0.5
"""Share of a wait that is random."""


class BackOff:
    """Waits that double with each attempt, up to a limit; jitter shortens each by up to a half."""

    def __init__(self, first_s: float, max_s: float, chance: Callable[[], float] = random) -> None:
        """Start with the shortest wait.

        Args:
            first_s: Longest first wait, in seconds.
            max_s: Longest wait, in seconds.
            chance: Source of random numbers from 0 to 1.
        """
        self._first_s = min(first_s, max_s)
        self._max_s = max_s
        self._next_s = self._first_s
        self._chance = chance

    @property
    def is_reset(self) -> bool:
        """True if no attempt has failed since the start or the last success."""
        return self._next_s == self._first_s

    def next_s(self) -> float:
        """Return the wait before the next attempt, in seconds."""
        longest_s = self._next_s
        self._next_s = min(longest_s * 2, self._max_s)
        return longest_s * (1 - _JITTER * self._chance())

    def reset(self) -> None:
        """Return to the shortest wait after an attempt succeeded."""
        self._next_s = self._first_s

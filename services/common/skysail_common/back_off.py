"""How long to wait between attempts."""


class BackOff:
    """Waits that double with each attempt, up to a limit."""

    def __init__(self, first_s: float, max_s: float) -> None:
        """Begins with `first_s` seconds and never gives more than `max_s`."""
        self._first_s = min(first_s, max_s)
        self._max_s = max_s
        self._next_s = self._first_s

    @property
    def is_reset(self) -> bool:
        """True while no attempt has failed since the beginning or the last success."""
        return self._next_s == self._first_s

    def next_s(self) -> float:
        """Return how long to wait before the next attempt, in seconds."""
        wait_s = self._next_s
        self._next_s = min(wait_s * 2, self._max_s)
        return wait_s

    def reset(self) -> None:
        """Begin anew: an attempt succeeded."""
        self._next_s = self._first_s

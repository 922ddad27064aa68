"""Least cost of an operation, measured beside other work on the machine."""

import time
from collections.abc import Callable, Iterator
from math import inf

PATIENCE_S = 5.0
"""Time limit of a measurement; other work may slow down any number of attempts in a row."""


def least_cost(attempt: Callable[[], float], limit_s: float) -> float:
    """Return the least cost of several attempts; stop at the first one below a limit."""
    least_s = inf
    for _ in while_patient():
        least_s = min(least_s, attempt())
        if least_s < limit_s:
            break
    return least_s


def while_patient() -> Iterator[None]:
    """Yield at least once, and again until the time limit."""
    give_up = time.monotonic() + PATIENCE_S
    yield
    while time.monotonic() < give_up:
        yield

"""What something costs in processor time, found beside other work on the machine."""

import time
from collections.abc import Callable, Iterator
from math import inf

PATIENCE_S = 5.0
"""Time in which the least cost is found: other work slows down any number of attempts in a row."""


def least_cost(attempt: Callable[[], float], limit_s: float) -> float:
    """Return the least that an attempt takes, after as many as it needs to stay below a limit."""
    least_s = inf
    for _ in while_patient():
        least_s = min(least_s, attempt())
        if least_s < limit_s:
            break
    return least_s


def while_patient() -> Iterator[None]:
    """Give a chance at least once, and again for some seconds."""
    give_up = time.monotonic() + PATIENCE_S
    yield
    while time.monotonic() < give_up:
        yield

"""Events in the log of a replica, from which management reads its last activity.

The log is the only information about a replica that every container manager can read before the
replica is ready and after it has ended. An event is the end of a line, after one of these prefixes
and a colon.
"""

from collections.abc import Sequence
from pathlib import PurePath

NOT_READY = "replica is not ready yet"
"""Prefix of a start step, such as loading or warm-up, and its duration."""

NOT_LOADED = "model cannot be loaded"
"""Prefix of the failure, and its place in the code, that ends a replica before it is ready."""

STUCK = "function is stuck"
"""Prefix of the duration and place of a call that does not return; the replica ends."""


UNHEALTHY = "model is unhealthy"
"""Prefix of the error of the model's `check_health`; the replica ends."""


def place_of(function: str, file: str, line: int) -> str:
    """Return a place in the user's code, for people.

    The text omits the directory of the file, because it is a detail of the server. A function that
    was pickled by value lacks a file, and its lines count from its first line.
    """
    if file.startswith("<"):
        return f"{function}, line {line} of its code"
    return f"{function}, {PurePath(file).name} line {line}"


def where_stuck(places: Sequence[str]) -> str:
    """Return the place of a stuck call, as the end of a message.

    Args:
        places: Function, file and line of each frame of the user's code, the innermost first.
    """
    if not places:
        return ""
    inside = f" ({places[0]})" if len(places) > 1 else ""
    return f", in {places[-1]}{inside}"

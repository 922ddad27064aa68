"""Events in the log of a replica, from which management learns its last activity.

A log is the one thing that every container manager can read of a replica that is not ready or has
ended. An event stands at the end of its line, after one of these and a colon.
"""

from collections.abc import Sequence
from pathlib import PurePath

NOT_READY = "replica is not ready yet"
"""The model is being loaded or warmed up: which, and for how long."""

NOT_LOADED = "model cannot be loaded"
"""The replica ends before it was ready: what failed, and where."""

STUCK = "function is stuck"
"""A call does not return, for which the replica ends: for how long, and where."""


def place_of(function: str, file: str, line: int) -> str:
    """Return a place of the user's code for people.

    The directory of a file is the server's own business. A function that was pickled by value has no
    file, and its lines are counted from its first one.
    """
    if file.startswith("<"):
        return f"{function}, line {line} of its code"
    return f"{function}, {PurePath(file).name} line {line}"


def where_stuck(places: Sequence[str]) -> str:
    """Return the place where a call is stuck, as the end of a message.

    Args:
        places: Function, file and line of each frame of the user's code, the innermost first.
    """
    if not places:
        return ""
    inside = f" ({places[0]})" if len(places) > 1 else ""
    return f", in {places[-1]}{inside}"

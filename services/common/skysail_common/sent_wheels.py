"""Wheels of the user that travel in an artifact, as requirements name them.

A requirement `wheels/<SHA-256>/<file name>` is a file of the artifact with that path. It names its
content, so that equal requirements mean equal packages.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

WHEELS_DIRECTORY = "wheels/"
"""Directory of the wheels in an artifact."""

_SENT = re.compile(
    r"^wheels/(?P<sha256>[0-9a-f]{64})/(?P<name>[A-Za-z0-9][\w.+!-]*\.whl)(?=$|\s|;)", re.ASCII
)


def wheel_path(sha256: str, name: str) -> str:
    """Return the path of a wheel in an artifact, which is also its requirement."""
    return f"{WHEELS_DIRECTORY}{sha256}/{name}"


def replace_wheels(
    requirements: Sequence[str], place: Callable[[str, str], Path]
) -> tuple[str, ...]:
    """Return the requirements with the paths of wheels on this machine.

    Args:
        requirements: Lines of a requirements file.
        place: Puts the file with a SHA-256 and a name somewhere, and returns its path.
    """
    return tuple(
        _SENT.sub(lambda found: str(place(found["sha256"], found["name"])), line)
        for line in requirements
    )


def sent_wheels(requirements: Sequence[str]) -> list[str]:
    """Return the file names of the wheels that travel."""
    return [found["name"] for line in requirements if (found := _SENT.match(line)) is not None]

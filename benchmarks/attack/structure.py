"""A structure of a request that costs much to read for each byte that is sent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

KIB, MIB = 1 << 10, 1 << 20
MAX_BYTES = 63 * MIB
"""Just below the largest message that a frontend takes."""

DIGITS = b"00000000"
"""Stands for the number of a part in `numbered`."""

REFUSED = frozenset({"400", "413", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"})
IGNORED = REFUSED | {"200", "OK"}
"""For what a server may also pass over."""

Make = Callable[[int], bytes]
"""Returns a body of about so many bytes."""


@dataclass(frozen=True)
class Structure:
    """One way to send much in few bytes."""

    name: str
    door: str
    """Path of the HTTP door or of the RPC."""
    make: Make
    answers: frozenset[str] = REFUSED
    """Right answers of a server: HTTP statuses or names of gRPC statuses."""

    @property
    def is_http(self) -> bool:
        """Whether the door is an HTTP one."""
        return not self.door.startswith(("/inference.", "/skysail."))

    def __str__(self) -> str:
        return f"{self.door.rsplit('/', 1)[-1]}: {self.name}"


def filled(head: bytes, unit: bytes, tail: bytes, size: int) -> bytes:
    """Return a body of about a size that repeats one part."""
    return head + unit * max(1, (size - len(head) - len(tail)) // len(unit)) + tail


def numbered(head: bytes, unit: bytes, tail: bytes, size: int) -> bytes:
    """Return a body of about a size that repeats one part, with another number in each.

    Args:
        head: Its begin.
        unit: The part, with `DIGITS` in it.
        tail: Its end.
        size: Bytes in all.
    """
    count = max(1, (size - len(head) - len(tail)) // len(unit))
    units = np.tile(np.frombuffer(unit, np.uint8), (count, 1))
    numbers, at = np.arange(count), unit.index(DIGITS)
    for place in range(len(DIGITS)):
        units[:, at + place] = ord("0") + numbers // 10 ** (len(DIGITS) - 1 - place) % 10
    return head + units.tobytes() + tail


def table(door: str, makes: Mapping[str, Make], answers: frozenset[str]) -> list[Structure]:
    """Return the structures of one door."""
    return [Structure(name, door, make, answers) for name, make in makes.items()]

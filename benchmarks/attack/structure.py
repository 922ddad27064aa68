"""Structures of requests that are expensive to parse for their size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

KIB, MIB = 1 << 10, 1 << 20
MAX_BYTES = 63 * MIB
"""Size just below the largest message of a frontend."""

DIGITS = b"00000000"
"""Placeholder for the number of a part in `numbered`."""

REFUSED = frozenset({"400", "413", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"})
IGNORED = REFUSED | {"200", "OK"}
"""Expected answers if a server may also ignore the structure."""

Make = Callable[[int], bytes]
"""Returns a body of about a number of bytes."""


@dataclass(frozen=True)
class Structure:
    """One expensive structure."""

    name: str
    door: str
    """Path of the HTTP door or of the RPC."""
    make: Make
    answers: frozenset[str] = REFUSED
    """Expected answers of a server: HTTP statuses or names of gRPC statuses."""

    @property
    def is_http(self) -> bool:
        """True for an HTTP door."""
        return not self.door.startswith(("/inference.", "/skysail."))

    def __str__(self) -> str:
        return f"{self.door.rsplit('/', 1)[-1]}: {self.name}"


def filled(head: bytes, unit: bytes, tail: bytes, size: int) -> bytes:
    """Return a body of about a size that repeats one part."""
    return head + unit * max(1, (size - len(head) - len(tail)) // len(unit)) + tail


def numbered(head: bytes, unit: bytes, tail: bytes, size: int) -> bytes:
    """Return a body of about a size that repeats one part, with another number in each.

    Args:
        head: Beginning of the body.
        unit: The repeated part, which contains `DIGITS`.
        tail: End of the body.
        size: Size of the body in bytes.
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

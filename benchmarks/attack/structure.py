"""A structure of a request that costs much to read for each byte that is sent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20
MAX_BYTES = 63 * MIB
"""Just below the largest message that a frontend takes."""

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


def table(door: str, makes: Mapping[str, Make], answers: frozenset[str]) -> list[Structure]:
    """Return the structures of one door."""
    return [Structure(name, door, make, answers) for name, make in makes.items()]

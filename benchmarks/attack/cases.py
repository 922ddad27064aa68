"""What a fuzzer sends: one case after the other, each made of a seed of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.attack.sending import Sender


@dataclass(frozen=True)
class Case:
    """One thing to send."""

    label: str
    """What it is, in few words; counted by the first."""
    send: Callable[[Sender], str]
    """Sends it and returns the outcome in one word."""
    answers: frozenset[str]
    """Outcomes that are right."""


Make = Callable[[Random], Case]
"""Makes a case; the same of the same seed."""

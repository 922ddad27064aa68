"""The cases of a fuzzer, each generated from its own seed."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.attack.sending import Sender


@dataclass(frozen=True)
class Case:
    """One case: a request or a connection to send."""

    label: str
    """Short description of the case."""
    send: Callable[[Sender], str]
    """Sends the case and returns the outcome in one word."""
    answers: frozenset[str]
    """Expected outcomes."""


Make = Callable[[Random], Case]
"""Generates a case; the same seed gives the same case."""

"""Puts sets into an order that is the same in every process.

A set iterates by the hashes of its elements. Those of texts are random in each process, and those of
classes are addresses.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Any

_SETS = (set, frozenset)
_NUMBERS = (int, float, complex, bool)
_ATOMS = (str, bytes, type(None), *_NUMBERS)
_CONTAINERS = (dict, list, tuple)

_MAX_ELEMENTS = 20_000
"""Most elements that are looked at in one container, with those of all containers in it."""
_MAX_DEPTH = 20


class SortedSet:
    """A set that is pickled in the order of its elements, not of their hashes."""

    def __init__(self, elements: "set[Any] | frozenset[Any]") -> None:
        # Kept, because its id stands for it.
        self._original = elements
        self._elements = sorted(elements, key=_key)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._original), (self._elements,)


class SetOrdering:
    """What is pickled in place of sets, and of the containers that hold sets, in one pickle."""

    def __init__(self) -> None:
        # One object for each, so that what shares it here shares it there. The originals are kept,
        # because their ids stand for them.
        self._found: dict[int, tuple[Any, Any]] = {}

    def ordered(self, value: Any) -> Any:
        """Return what stands for a value; the value itself if its order is the same everywhere."""
        if type(value) not in _SETS and type(value) not in _CONTAINERS:
            return value
        try:
            return self._ordered(value, _Budget(), 0)
        except _BudgetExceeded:
            return value

    def _ordered(self, value: Any, budget: "_Budget", depth: int) -> Any:
        cls = type(value)
        if cls not in _SETS and cls not in _CONTAINERS:
            return value
        if id(value) in self._found:
            return self._found[id(value)][1]
        budget.take(len(value))
        made: Any = value
        if cls in _SETS:
            if _varies(value):
                made = SortedSet(value)
        elif depth >= _MAX_DEPTH:
            # A container that holds itself has no end.
            raise _BudgetExceeded
        elif cls is dict:
            parts = [self._ordered(part, budget, depth + 1) for part in value.values()]
            if _differ(parts, value.values()):
                made = dict(zip(value, parts, strict=True))
        else:
            parts = [self._ordered(part, budget, depth + 1) for part in value]
            if _differ(parts, value):
                made = cls(parts)
        if made is not value:
            self._found[id(value)] = (value, made)
        return made


class _BudgetExceeded(Exception):
    """A container that is left as it is, because to look at all of it would take too long."""


class _Budget:
    def __init__(self) -> None:
        self._left = _MAX_ELEMENTS

    def take(self, num_elements: int) -> None:
        self._left -= num_elements
        if self._left < 0:
            raise _BudgetExceeded


def _differ(parts: list[Any], originals: Iterable[Any]) -> bool:
    return any(part is not each for part, each in zip(parts, originals, strict=True))


def _varies(elements: "set[Any] | frozenset[Any]") -> bool:
    """Return whether the order of a set differs between processes, and can be made the same."""
    return not all(type(each) in _NUMBERS for each in elements) and all(map(_has_order, elements))


def _has_order(element: Any) -> bool:
    """Return whether the key of an element is the same in every process."""
    if type(element) is tuple:
        return all(map(_has_order, element))
    return type(element) in _ATOMS or isinstance(element, (type, Enum))


def _key(element: Any) -> tuple[str, str]:
    if isinstance(element, type):
        return "type", f"{element.__module__}.{element.__qualname__}"
    cls = type(element)
    if isinstance(element, Enum):
        return f"{cls.__module__}.{cls.__qualname__}", repr(element.value)
    if cls is tuple:
        return "tuple", repr([_key(part) for part in element])
    return cls.__name__, repr(element)

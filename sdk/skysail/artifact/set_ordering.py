"""Order of sets that is the same in every process.

A set iterates by the hashes of its elements. Hashes of strings are random in each process, and hashes
of classes are addresses.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Any

_SETS = (set, frozenset)
_NUMBERS = (int, float, complex, bool)
_ATOMS = (str, bytes, type(None), *_NUMBERS)
_CONTAINERS = (dict, list, tuple)

_MAX_ELEMENTS = 20_000
"""Most elements to visit in one container, including all nested containers."""
_MAX_DEPTH = 20


class SortedSet:
    """A set that is pickled in the order of its elements."""

    def __init__(self, elements: "set[Any] | frozenset[Any]") -> None:
        # A reference keeps the set alive, because its id identifies it.
        self._original = elements
        self._elements = sorted(elements, key=_key)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._original), (self._elements,)


class SetOrdering:
    """The substitutes of sets, and of containers of sets, in one pickle."""

    def __init__(self) -> None:
        # Each original has one substitute, so that references stay shared. References keep the
        # originals alive, because their ids identify them.
        self._found: dict[int, tuple[Any, Any]] = {}

    def ordered(self, value: Any) -> Any:
        """Return the substitute of a value; the value itself if its order is stable."""
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
            # A container that holds itself is infinitely deep.
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
    """A container is too large to visit, and stays unchanged."""


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
    """Return whether the order of a set varies between processes, and can be fixed."""
    return not all(type(each) in _NUMBERS for each in elements) and all(map(_has_order, elements))


def _has_order(element: Any) -> bool:
    """Return whether the sort key of an element is the same in every process."""
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

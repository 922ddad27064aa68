"""Paths from a function to an object that it holds, for errors about unpicklable objects."""

import contextlib
import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

_MAX_LOOKED_AT = 200_000
_MAX_PARTS = 5_000_000
"""Most parts to look at, numbers and texts included; the search then takes seconds at most."""
_MAX_SHOWN_PARTS = 5

# Objects of these types hold no unpicklable object.
_ATOMS = (str, bytes, int, float, complex, bool, type(None), np.ndarray, np.generic)


@dataclass(frozen=True)
class Step:
    """One step of a path."""

    label: str
    """Part of an expression, such as `.lock` or `[0]`; empty for the class of an object."""
    owner: Any
    """Holder of the value; for a global variable, the function that reads it."""
    value: Any

    @property
    def name(self) -> str:
        """Name of the variable or attribute; empty for an element."""
        return self.label[1:] if self.label.startswith(".") else ""


@dataclass(frozen=True)
class ObjectPath:
    """The path from a function to an object."""

    steps: tuple[Step, ...]
    """The steps, beginning in the function."""

    @property
    def expression(self) -> str:
        """The path as an expression, such as `self.parent.lock`."""
        labels = [step.label for step in self.steps if step.label]
        shown = "".join(labels[:_MAX_SHOWN_PARTS]).lstrip(".")
        return f"{shown}…" if len(labels) > _MAX_SHOWN_PARTS else shown


def find_object_path(
    function: Any, target: Any, is_by_value: Callable[[str], bool]
) -> ObjectPath | None:
    """Return the path from a function to an object that it holds; None without a path.

    Args:
        function: Start of the search.
        target: The object.
        is_by_value: Returns whether the classes of a module are pickled with their attributes.
    """
    pending: deque[tuple[Any, tuple[Step, ...]]] = deque([(function, ())])
    # References keep the objects alive, because temporary ones would free their ids for others.
    seen: dict[int, Any] = {id(function): function}
    num_parts = 0
    while pending:
        value, steps = pending.popleft()
        if value is target:
            return ObjectPath(steps)
        for label, part in _parts(value, is_by_value):
            num_parts += 1
            if num_parts > _MAX_PARTS:
                return None
            if isinstance(part, _ATOMS) or id(part) in seen:
                continue
            if len(seen) >= _MAX_LOOKED_AT:
                return None
            seen[id(part)] = part
            pending.append((part, (*steps, Step(label, value, part))))
    return None


def _parts(value: Any, is_by_value: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
    function = getattr(value, "__func__", value)
    code = getattr(function, "__code__", None)
    if isinstance(function, FunctionType) and code is not None:
        yield from _parts_of_function(function)
        if hasattr(value, "__self__"):
            yield ".self", value.__self__
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, type):
        if is_by_value(value.__module__):
            for name, part in vars(value).items():
                yield f".{name}", getattr(part, "__func__", part)
    elif not isinstance(value, ModuleType):
        for name, part in getattr(value, "__dict__", {}).items():
            yield f".{name}", part
        yield "", type(value)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        # An empty cell raises, because its variable is not set.
        with contextlib.suppress(ValueError):
            yield f".{name}", cell.cell_contents
    for name in global_names(code):
        if name in function.__globals__:
            yield f".{name}", function.__globals__[name]
    for index, default in enumerate(function.__defaults__ or ()):
        yield f".default {index}", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f".{name}", default
    for name, part in vars(function).items():
        yield f".{name}", part


def global_names(code: CodeType) -> Iterator[str]:
    """Yield the names in a code object, nested ones included, that may be global variables."""
    yield from code.co_names
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from global_names(constant)

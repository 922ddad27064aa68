"""Pickling of a function, with errors that name an unpicklable part."""

import dis
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any

from skysail.artifact.function_pickler import (
    FunctionPickler,
    HomeModule,
    Restored,
    is_cached_property,
)
from skysail.artifact.local_modules import find_local_module
from skysail.artifact.object_paths import ObjectPath, Step, find_object_path
from skysail_common.errors import InvalidInput
from skysail_common.model_functions import Function

_MAX_LAZY_OBJECTS = 20

_TESTS = ("POP_JUMP", "JUMP_IF", "TO_BOOL", "COPY", "DUP_TOP")
_NONE = ("LOAD_CONST", None)
_STORES = ("STORE_GLOBAL", "STORE_ATTR", "STORE_DEREF")


@dataclass(frozen=True)
class Pickled:
    """A pickled function."""

    content: bytes
    buffers: tuple[memoryview, ...]
    """Large buffers that the pickle refers to: views of the user's own arrays."""
    modules: frozenset[str]
    """Modules that it refers to, or that its code imports."""
    sources: dict[str, list[str]] = field(default_factory=dict)
    """Texts of its lines by file name, for tracebacks."""
    functions: tuple[FunctionType, ...] = ()
    """Functions that were pickled by value."""
    instances: tuple[Any, ...] = ()
    """Instances of classes that were pickled by value."""
    home_file: str = ""
    """Path of its module among the modules that travel; empty if replicas import the module."""
    import_reason: str = ""
    """Reason that replicas import its module; empty if they do not."""


def pickle_function(function: Function) -> Pickled:
    """Pickle a function, with the objects of `__main__` and of its module by value.

    Raises:
        InvalidInput: a part of the function cannot be pickled; the message names it.
    """
    home = _home_of(function)
    try:
        return _pickled(function, home)
    except InvalidInput as error:
        if home is None:
            raise
        try:
            # Replicas import the module, and create its state.
            pickled = _pickled(function, None)
        except InvalidInput:
            raise error from error.__cause__
        return replace(
            pickled,
            import_reason=(
                f"the replica imports module {home.name!r} from its source, because its state "
                f"cannot be pickled: {error.message}"
            ),
        )


def _home_of(function: Any) -> HomeModule | None:
    """Return the local module that defines a function, a method or a callable object."""
    while hasattr(function, "func") and not isinstance(function, FunctionType):
        # The function may be a partial object.
        function = function.func
    function = getattr(function, "__func__", function)
    holder = function if isinstance(function, (FunctionType, type)) else type(function)
    module = sys.modules.get(holder.__module__ or "")
    if not isinstance(module, ModuleType) or module.__name__ == "__main__":
        return None
    place = find_local_module(module)
    return None if place is None else HomeModule(module, *place)


def _pickled(function: Function, home: HomeModule | None) -> Pickled:
    lazy_objects: dict[int, Any] = {}
    while True:
        buffer = io.BytesIO()
        pickler = FunctionPickler(buffer, home, lazy_objects)
        try:
            pickler.dump(
                function if home is None else Restored(function, home.name, pickler.definitions)
            )
        except InvalidInput:
            raise
        except Exception as error:
            place = find_object_path(function, pickler.last, pickler.is_by_value)
            made = next(
                (step for step in _steps(place) if _is_created_lazily(step, pickler.functions)),
                None,
            )
            if (
                made is None
                or id(made.value) in lazy_objects
                or len(lazy_objects) >= _MAX_LAZY_OBJECTS
            ):
                raise InvalidInput(_error_text(place, pickler.last, error)) from error
            lazy_objects[id(made.value)] = made.value
            continue
        return Pickled(
            buffer.getvalue(),
            tuple(pickler.buffers.found),
            frozenset(pickler.modules),
            pickler.sources,
            tuple(pickler.functions),
            tuple(pickler.instances),
            "" if home is None else home.file,
        )


def _error_text(place: ObjectPath | None, unpicklable: Any, error: Exception) -> str:
    path = place.expression if place is not None else ""
    what = f"{path or 'something that it holds'} (a {type(unpicklable).__name__})"
    return (
        f"cannot pickle the function: {what}: {type(error).__name__}: {error}; create it inside "
        "the function on first use, in a function under functools.cache"
    )


def _steps(place: ObjectPath | None) -> tuple[Step, ...]:
    return () if place is None else place.steps


def _is_created_lazily(step: Step, functions: list[FunctionType]) -> bool:
    """Return whether the function creates an object if its variable or attribute is None.

    A call before the deployment has created the object already.
    """
    name = step.name
    if not name:
        return False
    if is_cached_property(step.owner, name):
        return True
    codes = {code for function in functions for code in _codes(function.__code__)}
    if any(type(each) is str and each == name for code in codes for each in code.co_consts):
        # The code may check by hasattr, or in globals(), and would find None.
        return False
    return any(_makes_if_none(code, name) for code in codes)


def _makes_if_none(code: CodeType, name: str) -> bool:
    """Return whether code like `if name is None: name = …` sets a variable or attribute."""
    steps = list(dis.get_instructions(code))
    asks = any(
        step.argval == name
        and step.opname.startswith("LOAD_")
        and (after.opname.startswith(_TESTS) or (after.opname, after.argval) == _NONE)
        for step, after in pairwise(steps)
    )
    return asks and any(step.argval == name and step.opname in _STORES for step in steps)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)

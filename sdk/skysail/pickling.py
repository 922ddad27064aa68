"""Pickles a function, finds what it refers to, and says which part of it cannot be pickled."""

import contextlib
import dis
import functools
import inspect
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import cloudpickle

from skysail_common.errors import InvalidInput
from skysail_common.functions import Function

# cloudpickle gives what it pickles by value a random id, by which two pickles of one process agree
# about it. Here is where it stands among the arguments of the function that remakes it.
_PLACES_OF_IDS = {"_make_skeleton_class": 4, "_make_skeleton_enum": 5, "_make_typevar": 5}


@dataclass(frozen=True)
class Pickled:
    """A function as bytes."""

    content: bytes
    modules: frozenset[str]
    """Modules that it refers to, or that its code imports when it runs."""


def pickle_function(function: Function) -> Pickled:
    """Return a function as bytes, with all that it refers to outside of modules.

    Raises:
        InvalidInput: something in it cannot be pickled; the message names it.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    try:
        pickler.dump(function)
    except Exception as error:
        culprit = _culprit(function)
        where = f"{culprit}: " if culprit else ""
        raise InvalidInput(
            f"the function cannot be pickled: {where}{type(error).__name__}: {error}; create it "
            "inside the function, on first use"
        ) from error
    return Pickled(buffer.getvalue(), frozenset(pickler.modules))


# cloudpickle ships no types.
class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Notes the modules that a pickle needs where it is loaded or run.

    The same script gives the same pickle in every process: its SHA-256 tells whether a version is
    deployed again or is another one. (Sets of texts that are values of variables are still in the
    order of their hashes, which differs.)
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()
        self._num_named: Counter[str] = Counter()

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, CodeType):
            steps = dis.get_instructions(obj)
            self.modules.update(step.argval for step in steps if step.opname == "IMPORT_NAME")
        elif isinstance(obj, ModuleType):
            self.modules.add(obj.__name__)
        elif isinstance(obj, (type, FunctionType, BuiltinFunctionType)):
            self.modules.add(obj.__module__ or "")
        if isinstance(obj, (CodeType, TypeVar)):
            return self._reproducible(obj, self.dispatch_table[type(obj)](obj))
        return self._reproducible(obj, super().reducer_override(obj))

    def _reproducible(self, obj: Any, reduced: Any) -> Any:
        """Return what remakes an object, without what is random or hangs on hashes in it."""
        if not isinstance(reduced, tuple):
            return reduced
        make, args, *state = reduced
        if make is CodeType:
            # `x in {"a", "b"}` has a constant set.
            consts = [tuple(map(_in_order, arg)) if isinstance(arg, tuple) else arg for arg in args]
            return (make, tuple(consts), *state)
        place = _PLACES_OF_IDS.get(getattr(make, "__name__", ""))
        if place is None:
            return reduced
        name = f"{obj.__module__}.{getattr(obj, '__qualname__', obj.__name__)}"
        self._num_named[name] += 1
        args = list(args)
        args[place] = f"skysail:{name}:{self._num_named[name]}"
        return (make, tuple(args), *state)


class _Ordered:
    """A constant set that is pickled in the order of its elements, not of their hashes."""

    def __init__(self, elements: frozenset[Any]) -> None:
        self._elements = sorted(elements, key=lambda each: (type(each).__name__, repr(each)))

    def __reduce__(self) -> tuple[Any, ...]:
        return frozenset, (self._elements,)


def _in_order(constant: Any) -> Any:
    return _Ordered(constant) if isinstance(constant, frozenset) else constant


def _culprit(
    value: Any, path: str = "", depth: int = 6, above: frozenset[int] = frozenset()
) -> str:
    """Return the innermost part of `value` that cannot be pickled, such as `model.lock`."""
    if depth == 0 or id(value) in above or _can_pickle(value):
        return ""
    for name, part in _parts(value):
        found = _culprit(part, f"{path}{name}", depth - 1, above | {id(value)})
        if found:
            return found
    return f"{path.lstrip('.') or 'the function'} (a {type(value).__name__})"


def _can_pickle(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    function = getattr(value, "__func__", value)
    code = getattr(function, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            # An empty cell raises: its variable was not set yet.
            with contextlib.suppress(ValueError):
                yield f".{name}", cell.cell_contents
        for name in _global_names(code):
            if name in function.__globals__:
                yield f".{name}", function.__globals__[name]
        for index, default in enumerate(function.__defaults__ or ()):
            yield f".default {index}", default
        for name, default in (function.__kwdefaults__ or {}).items():
            yield f".{name}", default
        if hasattr(value, "__self__"):
            yield ".self", value.__self__
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif isinstance(value, (list, tuple, set)):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif not isinstance(value, (ModuleType, type)):
        for name, part in getattr(value, "__dict__", {}).items():
            yield f".{name}", part


def _global_names(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _global_names(constant)

"""The pickler of functions, which pickles user code by value, reproducibly, and records imports.

The same script gives the same pickle in every process and in every directory, because the SHA-256
identifies the content of a version. The exception are sets in objects with their own `__reduce__`,
such as a `collections.defaultdict`: they stay in the order of their hashes.
"""

import functools
import inspect
import io
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import cloudpickle
from cloudpickle.cloudpickle import (
    _dynamic_class_reduce,
    _lookup_module_and_qualname,
    _make_cell,
    _typevar_reduce,
    subimport,
)

from skysail.artifact.buffers import Buffers
from skysail.artifact.code_objects import CodeNormalizer, imported_names
from skysail.artifact.set_ordering import SetOrdering
from skysail.artifact.torch_storages import TorchStorages
from skysail_common import captured
from skysail_common.errors import InvalidInput

# cloudpickle gives each class that it pickles by value a random id, shared by the pickles of one
# process. The number is the position of the id in the arguments of the function that creates the class.
_PLACES_OF_IDS = {"_make_skeleton_class": 4, "_make_skeleton_enum": 5, "_make_typevar": 5}

# A single check of all these types is faster, and most objects have another type.
_SPECIAL = (
    FunctionType, type, CodeType, ModuleType, CellType, TypeVar, functools._lru_cache_wrapper,
    functools.cached_property, WeakKeyDictionary, WeakValueDictionary, PurePath,
    BuiltinFunctionType,
)  # fmt: skip


class HomeModule:
    """The module of the user that defines the function; its members are pickled by value."""

    def __init__(self, module: ModuleType, root: Path, file: Path) -> None:
        """Describe a module.

        Args:
            module: The module.
            root: Directory of `sys.path` that contains it.
            file: Its source file.
        """
        self.name = module.__name__
        self.globals = module.__dict__
        self.file = file.relative_to(root).as_posix()
        self._roots = (root, root.resolve())

    def travelling(self, path: str) -> str | None:
        """Return `path` relative to the modules that travel; None if it is outside of them."""
        pure = PurePath(path)
        for root in self._roots:
            if pure == root or root in pure.parents:
                return pure.relative_to(root).as_posix()
        return None


# cloudpickle has no types.
class FunctionPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler of one function, which records the modules that the function refers to."""

    def __init__(
        self, file: io.BytesIO, home: HomeModule | None, lazy_objects: Collection[int] = ()
    ) -> None:
        """Create a pickler that writes to a file.

        Args:
            file: Destination of the pickle.
            home: Module whose functions and classes are pickled by value, like those of `__main__`.
            lazy_objects: Ids of objects that the function creates lazily, and that become None.
        """
        self.buffers = Buffers()
        """Large buffers that the pickle refers to."""
        super().__init__(file, buffer_callback=self.buffers.take)
        self.modules: set[str] = set()
        """Modules that the pickle needs when it is loaded or run."""
        self.functions: list[FunctionType] = []
        """Functions that were pickled by value."""
        self.instances: list[Any] = []
        """Instances of classes that were pickled by value."""
        self.last: Any = None
        """The object pickled last; the unpicklable one after a failure."""
        self.definitions: dict[str, Any] = {}
        """Functions and classes of the home module, by name."""
        self._home = home
        self._lazy_objects = frozenset(lazy_objects)
        self._codes = CodeNormalizer()
        self._num_named: Counter[str] = Counter()
        self._namespace = None if home is None else _Call(captured.namespace, home.name, home.file)
        self._code_names: dict[int, str] = {}
        self._ordering = SetOrdering()
        self._is_usual: dict[type, bool | None] = {}
        self._storages = TorchStorages()

    @property
    def sources(self) -> dict[str, list[str]]:
        """Texts of lines by file name, for tracebacks of the loaded function."""
        return self._codes.sources

    def is_by_value(self, module: str | None) -> bool:
        """Return whether functions and classes of a module are pickled by value."""
        return module == "__main__" or (self._home is not None and module == self._home.name)

    def reducer_override(self, obj: Any) -> Any:
        """Return the reduction of an object, or NotImplemented for the default of pickle."""
        self.last = obj
        if id(obj) in self._lazy_objects:
            return type(None), ()
        if not isinstance(obj, _SPECIAL):
            return self._instance(obj)
        if isinstance(obj, FunctionType):
            return self._function(obj)
        if isinstance(obj, type):
            return self._class(obj)
        if isinstance(obj, CodeType):
            return self._codes.reduced(obj, self._code_names.get(id(obj), obj.co_name))
        if isinstance(obj, ModuleType):
            self.modules.add(obj.__name__)
            # A lazy module, a subclass of ModuleType, counts too.
            is_known = sys.modules.get(obj.__name__) is obj
            return (subimport, (obj.__name__,)) if is_known else NotImplemented
        if isinstance(obj, CellType):
            return self._cell(obj)
        if isinstance(obj, TypeVar):
            return self._reproducible(obj, _typevar_reduce(obj))
        if isinstance(obj, functools._lru_cache_wrapper):
            return self._cached(obj)
        if isinstance(obj, (WeakKeyDictionary, WeakValueDictionary)):
            # A `functools.singledispatch` function has such a dictionary.
            return type(obj), (dict(obj),)
        if isinstance(obj, functools.cached_property):
            # Before Python 3.12 the object has a lock.
            return captured.cached_property, (obj.func, obj.attrname)
        if isinstance(obj, PurePath) and self._home is not None:
            relative = self._home.travelling(str(obj))
            if relative is not None:
                return type(obj), (_Call(captured.unpacked, relative),)
        if isinstance(obj, BuiltinFunctionType):
            self.modules.add(obj.__module__ or "")
        return self._instance(obj)

    def _function(self, function: FunctionType) -> Any:
        self.modules.add(function.__module__ or "")
        if self._home is not None and function.__module__ == self._home.name:
            reduced = self._dynamic_function_reduce(function)
            self._define(function)
        else:
            reduced = super().reducer_override(function)
        if not isinstance(reduced, tuple):
            return reduced
        self.functions.append(function)
        self.modules |= imported_names(function.__code__, _package(function.__globals__))
        name = f"{function.__module__}.{function.__qualname__}"
        self._code_names.setdefault(id(function.__code__), name)
        make, (code, base_globals, *rest), (state, slots), *others = reduced
        if self._home is not None and function.__globals__ is self._home.globals:
            base_globals = self._namespace
        else:
            # These variables are paths of this machine.
            base_globals.pop("__file__", None)
            base_globals.pop("__path__", None)
        slots["__globals__"] = self._globals(function, slots["__globals__"])
        for name in ("__defaults__", "__kwdefaults__"):
            slots[name] = self._value(slots[name])
        slots["_cloudpickle_submodules"] = sorted(
            filter(_must_be_imported, slots["_cloudpickle_submodules"]),
            key=lambda module: module.__name__,
        )
        return (make, (code, base_globals, *rest), (self._mapping(state), slots), *others)

    def _globals(self, function: FunctionType, values: dict[str, Any]) -> dict[str, Any]:
        values = self._mapping(values)
        home = self._home if function.__globals__ is getattr(self._home, "globals", None) else None
        if home is None:
            if "__file__" in values and self.is_by_value(function.__module__):
                raise InvalidInput(
                    f"cannot deploy the function: {function.__qualname__} reads __file__, and the "
                    "files beside a script do not travel; read them into a variable when the "
                    "script starts, or move the function and its files into a package"
                )
            return values
        for name, value in values.items():
            relative = home.travelling(value) if type(value) is str else None
            if relative is not None:
                values[name] = _Call(captured.unpacked, relative)
        return values

    def _class(self, cls: type) -> Any:
        self.modules.add(cls.__module__ or "")
        if self._home is not None and cls.__module__ == self._home.name:
            reduced = _dynamic_class_reduce(cls)
            self._define(cls)
        else:
            reduced = super().reducer_override(cls)
        return self._reproducible(cls, reduced)

    def _define(self, found: Any) -> None:
        assert self._home is not None
        name = found.__qualname__
        if self._home.globals.get(name) is found:
            self.definitions[name] = found

    def _reproducible(self, obj: Any, reduced: Any) -> Any:
        """Return the reduction of a class or type variable, without random parts."""
        if not isinstance(reduced, tuple):
            return reduced
        place = _PLACES_OF_IDS.get(getattr(reduced[0], "__name__", ""))
        if place is None:
            return reduced
        make, args, *others = reduced
        name = f"{obj.__module__}.{getattr(obj, '__qualname__', obj.__name__)}"
        self._num_named[name] += 1
        args = list(args)
        args[place] = f"skysail:{name}:{self._num_named[name]}"
        if others and others[0] is not None:
            members, slots = others[0]
            members = self._mapping(members)
            if str(members.get("__doc__")).startswith(f"{obj.__name__}("):
                # `dataclasses` builds the text from the defaults, which may be sets.
                members["__doc__"] = None
            # copyreg adds this attribute when an instance is pickled.
            members.pop("__slotnames__", None)
            # Python 3.13 adds a line number, and attribute names in the order of their hashes.
            members.pop("__firstlineno__", None)
            if "__static_attributes__" in members:
                members["__static_attributes__"] = tuple(sorted(members["__static_attributes__"]))
            others[0] = (members, slots)
        return (make, tuple(args), *others)

    def _cell(self, cell: CellType) -> Any:
        try:
            contents = cell.cell_contents
        except ValueError:
            # An empty cell raises, because its variable is not set.
            return NotImplemented
        return _make_cell, (self._value(contents),)

    def _cached(self, wrapper: Any) -> Any:
        found = _lookup_module_and_qualname(wrapper)
        if found is not None and not self.is_by_value(found[0].__name__):
            self.modules.add(found[0].__name__)
            return NotImplemented
        options = wrapper.cache_parameters()
        if self._home is not None and wrapper.__module__ == self._home.name:
            self._define(wrapper)
        return captured.cached, (wrapper.__wrapped__, options["maxsize"], options["typed"])

    def _instance(self, obj: Any) -> Any:
        cls = type(obj)
        if (reduced := self._storages.reduced(obj)) is not NotImplemented:
            return reduced
        if cls not in self._is_usual:
            self._is_usual[cls] = None if cls in self.dispatch_table else _is_reduced_as_usual(cls)
        is_usual = self._is_usual[cls]
        if is_usual is None:
            return NotImplemented
        if is_usual:
            if self.is_by_value(cls.__module__):
                self.instances.append(obj)
            return self._usual(obj)
        if cls is SimpleNamespace:
            return SimpleNamespace, (), self._mapping(vars(obj))
        if cls is functools.partial:
            make, args, (func, *given, attributes) = obj.__reduce__()
            return make, args, (func, *map(self._value, given), attributes)
        if not self.is_by_value(getattr(obj, "__module__", None)):
            return NotImplemented
        reduced = obj.__reduce_ex__(self.proto)
        if isinstance(reduced, str) and getattr(obj, "__module__", None) == "__main__":
            raise InvalidInput(
                f"cannot pickle the function: {reduced} (a {cls.__name__}) is pickled by its name, "
                "and a replica has no '__main__' with that name; move it into a module of its own, "
                "which travels along"
            )
        return reduced

    def _usual(self, obj: Any) -> Any:
        """Return the reduction of an object that is pickled by its attributes."""
        attributes = getattr(obj, "__dict__", {})
        has_slots = hasattr(obj, "__slots__")
        if not has_slots and not any(map(self._is_replaced, attributes.values())):
            return NotImplemented
        make, args, state, *others = obj.__reduce_ex__(self.proto)
        if isinstance(state, dict):
            state = self._mapping(state)
            for name in attributes:
                if self._is_cached_for_later(obj, name):
                    state.pop(name, None)
        elif isinstance(state, tuple) and len(state) == 2:
            # The state has attributes of the dictionary, and those in slots.
            state = tuple(self._mapping(part) if isinstance(part, dict) else part for part in state)
        return (make, args, state, *others)

    def _is_cached_for_later(self, obj: Any, name: str) -> bool:
        if id(vars(obj)[name]) not in self._lazy_objects:
            return False
        return is_cached_property(obj, name)

    def _mapping(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._value(value) for name, value in values.items()}

    def _is_replaced(self, value: Any) -> bool:
        return self._value(value) is not value

    def _value(self, value: Any) -> Any:
        return None if id(value) in self._lazy_objects else self._ordering.ordered(value)


def is_cached_property(obj: Any, name: str) -> bool:
    """Return whether an attribute is the value of a `functools.cached_property`."""
    return isinstance(inspect.getattr_static(type(obj), name, None), functools.cached_property)


class _Call:
    """An object that pickle stores as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._reduced = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


class Restored(_Call):
    """A function of a home module, with the definitions of its module."""

    def __init__(self, function: Any, name: str, definitions: dict[str, Any]) -> None:
        # Pickle writes arguments in order, so that the definitions are complete when it writes them.
        super().__init__(captured.restored, function, name, definitions)


def _is_reduced_as_usual(cls: Any) -> bool:
    usual: Any = object
    return cls.__reduce_ex__ is usual.__reduce_ex__ and cls.__reduce__ is usual.__reduce__


def _package(namespace: Mapping[str, Any]) -> str:
    """Return the package of the relative imports of a module."""
    package = namespace.get("__package__")
    if package is not None:
        return str(package)
    name = str(namespace.get("__name__", ""))
    return name if "__path__" in namespace else name.rpartition(".")[0]


def _must_be_imported(submodule: ModuleType) -> bool:
    """Return whether a submodule is an attribute of its package only after its import.

    A package with `__getattr__` may import it lazily, so that its presence varies.
    """
    package = sys.modules.get(submodule.__name__.rpartition(".")[0])
    return not hasattr(package, "__getattr__")

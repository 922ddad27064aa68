"""Functions that pickles of deployed functions name; they run in the process that loads a pickle.

The module of a deployed function travels twice. The members that the function uses travel by value,
with their state at the time of the deploy. The source file travels for all other code that imports
the module.

    captured module     attributes that were pickled by value
      └─ source module  executed only if something asks for any other attribute
"""

import functools
import importlib
import pickle
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from typing_extensions import override


def code_of(content: bytes) -> CodeType:
    """Return the code object from its normal form, which the SDK wrote."""
    code: CodeType = pickle.loads(content)
    return code


def make_code(*args: Any) -> CodeType:
    """Return a code object; pickle cannot name the type itself."""
    return CodeType(*args)


def cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Callable[..., Any]:
    """Return a function under an empty `functools.lru_cache`."""
    return functools.lru_cache(maxsize, typed)(function)


def cached_property(function: Callable[[Any], Any], name: str) -> "functools.cached_property[Any]":
    """Return a cached property that keeps its value in the attribute `name`."""
    made = functools.cached_property(function)
    made.__set_name__(object, name)
    return made


def untyped_storage(content: Any) -> Any:
    """Return a storage of torch on a buffer, which it does not copy."""
    import torch

    if not len(content):
        return torch.UntypedStorage(0)
    return torch.frombuffer(content, dtype=torch.uint8).untyped_storage()


def typed_storage(untyped: Any, dtype: Any) -> Any:
    """Return the storage of tensors of a data type."""
    from torch.storage import TypedStorage

    return TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def unpacked(relative: str) -> str:
    """Return the path of a file or directory that travelled with the user's modules."""
    places = [Path(place or ".") / relative for place in sys.path]
    found = next((place for place in places if place.exists()), places[0] if places else Path())
    return str(found.absolute())


def namespace(name: str, file: str) -> dict[str, Any]:
    """Return the globals of a new captured module.

    Args:
        name: Full name of the module.
        file: Its source file among the user's modules, such as `pkg/model.py`.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    module = CapturedModule(name, unpacked(file))
    _FINDER.modules[name] = module
    return module.__dict__


def restored(function: Any, name: str, definitions: Mapping[str, Any]) -> Any:
    """Return a function after its captured module has the classes and functions by name.

    Pickle finds them in the module, such as when user code passes one to a process pool.
    """
    module = _FINDER.modules.get(name)
    if module is not None:
        module.__dict__.update(definitions)
    return function


_OF_THE_IMPORT_SYSTEM = frozenset({"__cached__", "__loader__", "__path__", "__spec__"})


class CapturedModule(ModuleType):
    """A module with the members that travelled by value; the others load on first use."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(name)
        self.__file__ = file
        is_package = Path(file).name == "__init__.py"
        if is_package:
            self.__path__ = [str(Path(file).parent)]
        self.__package__ = name if is_package else name.rpartition(".")[0]
        self.__source_lock = threading.RLock()
        self.__source: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__" and not self.__source_names(name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        source = self.__loaded_source()
        if name == "__all__":
            public = [each for each in vars(source) if not each.startswith("_")]
            return getattr(source, name, public)
        return getattr(source, name)

    def __source_names(self, name: str) -> bool:
        """Return whether the source contains a name; a probe for another name must not execute it."""
        if name in _OF_THE_IMPORT_SYSTEM:
            return False
        try:
            return name.encode() in Path(str(self.__file__)).read_bytes()
        except OSError:
            return False

    def __loaded_source(self) -> ModuleType:
        with self.__source_lock:
            if self.__source is None:
                parent = self.__name__.rpartition(".")[0]
                path = importlib.import_module(parent).__path__ if parent else None
                spec = PathFinder.find_spec(self.__name__, path)
                if spec is None or spec.loader is None:
                    raise AttributeError(f"the source of module {self.__name__!r} is not here")
                # The module is set before its execution, because modules may import each other.
                self.__source = module_from_spec(spec)
                try:
                    spec.loader.exec_module(self.__source)
                except BaseException:
                    self.__source = None
                    raise
            return self.__source


class _Finder(MetaPathFinder, Loader):
    """A finder by which `import` finds captured modules."""

    def __init__(self) -> None:
        self.modules: dict[str, CapturedModule] = {}

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = self.modules.get(fullname)
        if module is None:
            return None
        spec = ModuleSpec(fullname, self, origin=module.__file__)
        spec.submodule_search_locations = vars(module).get("__path__")
        return spec

    @override
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.modules[spec.name]

    @override
    def exec_module(self, module: ModuleType) -> None:
        # The members exist already, because they travelled by value.
        pass


_FINDER = _Finder()

"""A snapshot of the state of a function, restored after it ran on the example."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import CellType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from skysail.artifact.object_paths import global_names

_MAX_ELEMENTS = 10_000
_ABSENT = object()
_MAPPINGS = (dict, WeakKeyDictionary, WeakValueDictionary)
_COLLECTIONS = (*_MAPPINGS, list, set)


@contextmanager
def preserve_state(functions: Sequence[FunctionType], instances: Sequence[Any]) -> Iterator[None]:
    """Undo the changes that the `with` block makes to variables of functions and objects.

    A function that creates state lazily creates it again afterwards, here as in a replica, and a second
    deploy gives the same artifact. The snapshot has variables, attributes, and the elements of
    dictionaries, lists and sets in them, but not the objects that these hold.

    Args:
        functions: Functions whose global variables and attributes are restored.
        instances: Objects whose attributes are restored.
    """
    namespaces = {id(function.__globals__): function.__globals__ for function in functions}
    names: dict[int, set[str]] = {key: set() for key in namespaces}
    for function in functions:
        names[id(function.__globals__)].update(global_names(function.__code__))
    variables = [
        (namespace, {name: namespace.get(name, _ABSENT) for name in sorted(names[key])})
        for key, namespace in namespaces.items()
    ]
    holders = [*functions, *instances[:_MAX_ELEMENTS]]
    attributes = [(vars(each), dict(vars(each))) for each in holders if hasattr(each, "__dict__")]
    cells = [
        (cell, cell.cell_contents)
        for function in functions
        for cell in function.__closure__ or ()
        if _is_set(cell)
    ]
    kept_values = [value for _, kept in [*variables, *attributes] for value in kept.values()]
    collections = [
        (value, _elements(value))
        for value in [*kept_values, *(contents for _, contents in cells)]
        if type(value) in _COLLECTIONS and len(value) <= _MAX_ELEMENTS
    ]
    try:
        yield
    finally:
        for namespace, kept in variables:
            _restore_values(namespace, kept)
        for values, before in attributes:
            for name in set(values) - set(before):
                del values[name]
            _restore_values(values, before)
        for cell, contents in cells:
            cell.cell_contents = contents
        for value, elements in collections:
            _refill(value, elements)


def _is_set(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises if the variable is not set.
    except ValueError:
        return False
    return True


def _restore_values(values: dict[str, Any], kept: dict[str, Any]) -> None:
    for name, value in kept.items():
        if value is _ABSENT:
            values.pop(name, None)
        elif values.get(name, _ABSENT) is not value:
            values[name] = value


def _elements(value: Any) -> list[Any]:
    return list(value.items() if isinstance(value, _MAPPINGS) else value)


def _refill(value: Any, elements: list[Any]) -> None:
    """Restore elements if they changed; other threads may use an unchanged collection."""
    if _identities(value, _elements(value)) == _identities(value, elements):
        return
    if isinstance(value, set):
        # A set that is cleared and filled again may have another order.
        kept = set(map(id, elements))
        value.difference_update([each for each in value if id(each) not in kept])
        value.update(elements)
        return
    value.clear()
    if isinstance(value, list):
        value.extend(elements)
    else:
        value.update(elements)


def _identities(value: Any, elements: list[Any]) -> list[Any]:
    # Identity decides, because `==` of arrays gives an array.
    if isinstance(value, _MAPPINGS):
        return [(id(key), id(element)) for key, element in elements]
    return list(map(id, elements))

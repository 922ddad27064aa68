"""How a user's function is called, and what its result means.

The SDK uses this to learn a signature from an example, the model server to answer batches: what
worked in a notebook works in a replica.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.tensors import Array, Content, DataType, TensorSpec, narrowed

Calling = Literal["array", "keywords", "mapping", "list"]
"""`array` one array [batch, …] as the only argument; `keywords` each array by its name; `mapping`
one dictionary of arrays by name; `list` one list with an element a row, as Clipper's functions."""

Function = Callable[..., Any]

OUTPUT_NAME = "output"
"""Name of an output that has none of its own."""

LIST_OUTPUT = TensorSpec(OUTPUT_NAME, DataType.BYTES, (-1,), Content.JSON_OR_TEXT)
"""The output of a function that takes a list: texts as they are, other values as JSON."""


def call_function(function: Function, calling: Calling, inputs: Mapping[str, Any]) -> Any:
    """Return what the function returns for these inputs.

    Args:
        function: The function of the user; whatever it raises goes through.
        calling: How it takes its inputs.
        inputs: Arrays [batch, …] by name; for `list` one list.
    """
    if calling == "keywords":
        return function(**inputs)
    if calling == "mapping":
        return function(dict(inputs))
    return function(next(iter(inputs.values())))


def named_outputs(result: Any, calling: Calling) -> dict[str, Array]:
    """Return the outputs in a function's result, as arrays by name.

    A dictionary names them itself; a tuple has `output0`, `output1`, …; anything else is one
    array called `output`.

    Raises:
        ModelFailed: a part of the result is not an array of numbers or texts.
    """
    if calling == "list":
        return {OUTPUT_NAME: _texts(result)}
    if result is None:
        raise ModelFailed("the function returned None; it must return an output for each row")
    if isinstance(result, Mapping):
        return {str(name): as_array(str(name), value) for name, value in result.items()}
    if isinstance(result, tuple):
        names = [f"{OUTPUT_NAME}{index}" for index in range(len(result))]
        return {name: as_array(name, value) for name, value in zip(names, result, strict=True)}
    return {OUTPUT_NAME: as_array(OUTPUT_NAME, result)}


def as_array(name: str, value: Any) -> Array:
    """Return an array with the elements of a list, array, data frame or tensor of a framework.

    Raises:
        ModelFailed: it has no such elements, or its rows differ in length.
    """
    if hasattr(value, "detach"):
        # A torch tensor may belong to a graph or be on a GPU.
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ModelFailed(f"{name!r} is not an array: {error}") from error
    if array.dtype.kind in "SUT":
        # Once more, because numpy's own texts lose the zero bytes at their ends.
        array = np.asarray(value, dtype=object)
    if array.dtype.kind == "O":
        for element in array.ravel().tolist():
            if not isinstance(element, (str, bytes)):
                raise ModelFailed(
                    f"{name!r} holds a value of type {type(element).__name__}; its elements must "
                    "all be numbers of one datatype, or all texts"
                )
    elif array.dtype.newbyteorder("=") not in _KNOWN_DTYPES:
        raise ModelFailed(f"{name!r} has numpy type {array.dtype}, which no datatype holds")
    return array


_KNOWN_DTYPES = {datatype.dtype.newbyteorder("=") for datatype in DataType}


def _texts(result: Any) -> Array:
    is_list = isinstance(result, Sequence) or (isinstance(result, np.ndarray) and result.ndim > 0)
    if not is_list or isinstance(result, (str, bytes)):
        raise ModelFailed(
            f"the function returned {'None' if result is None else f'a {type(result).__name__}'}; "
            "it must return a list with an element for each input"
        )
    array = np.empty(len(result), dtype=object)
    array[:] = [_text(element) for element in result]
    return array


def _text(element: Any) -> str | bytes:
    if isinstance(element, (str, bytes)):
        return element
    try:
        return json.dumps(element, default=_plain)
    except (TypeError, ValueError):
        return str(element)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError


def checked_outputs(
    outputs: Mapping[str, Array], specs: Sequence[TensorSpec], num_rows: int
) -> list[Array]:
    """Return the outputs in the order of the signature, with the types that it promises.

    Raises:
        ModelFailed: an output is missing, or has another type, shape or number of rows.
    """
    return [_checked_output(outputs, spec, num_rows) for spec in specs]


def _checked_output(outputs: Mapping[str, Array], spec: TensorSpec, num_rows: int) -> Array:
    array = outputs.get(spec.name)
    if array is None:
        raise ModelFailed(
            f"the function returned {', '.join(map(repr, outputs)) or 'nothing'} but not output "
            f"{spec.name!r}"
        )
    if array.ndim == 0 or array.shape[0] != num_rows:
        got = "a single value" if array.ndim == 0 else f"{array.shape[0]} rows"
        raise ModelFailed(
            f"the function returned {got} in output {spec.name!r} for {num_rows} rows of input"
        )
    if array.ndim != len(spec.shape) or any(
        want not in (-1, size) for want, size in zip(spec.shape, array.shape, strict=True)
    ):
        raise ModelFailed(
            f"the function returned shape {list(array.shape)} in output {spec.name!r}; its "
            f"signature says {list(spec.shape)}"
        )
    is_text = array.dtype.kind == "O"
    if is_text != (spec.datatype is DataType.BYTES):
        got = "texts" if is_text else f"numbers ({array.dtype})"
        raise ModelFailed(
            f"the function returned {got} in output {spec.name!r}; its signature says "
            f"{spec.datatype.name}"
        )
    if is_text or array.dtype == spec.datatype.dtype:
        return array
    if not np.can_cast(array.dtype, spec.datatype.dtype, "same_kind"):
        raise ModelFailed(
            f"the function returned {array.dtype} in output {spec.name!r}, which does not fit "
            f"{spec.datatype.name}"
        )
    try:
        return narrowed(spec.name, array, spec.datatype)
    except InvalidInput as error:
        raise ModelFailed(f"the function's {error.message}") from error

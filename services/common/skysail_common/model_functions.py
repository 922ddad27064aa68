"""Calls of the user's function, and the meaning of its result.

The SDK calls a function to learn its signature from an example, the model server calls it to answer
batches. Both use this module, so that a function behaves the same in a notebook and in a replica.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Literal

import numpy as np

from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.frames.columns import column_of, library_of_frame, library_of_series
from skysail_common.frames.nulls import NULL_MASK_SUFFIX, has_sign, mask_name, missing_values
from skysail_common.json_or_text import elements_of
from skysail_common.tensor_conversions import narrowed
from skysail_common.tensors import Array, Content, DataType, TensorSpec
from skysail_common.times import NANOSECONDS, nanoseconds

Calling = Literal["array", "keywords", "mapping", "list", "frame"]
"""Form of the arguments: `array` one array [batch, …] as the only argument; `keywords` each array by
its name; `mapping` one dictionary of arrays by name; `list` one list with one element per row, as in
Clipper; `frame` one data frame."""

Function = Callable[..., Any]

OUTPUT_NAME = "output"
"""Name of an output for which the function gives no name."""

LIST_OUTPUT = TensorSpec(OUTPUT_NAME, DataType.BYTES, (-1,), Content.JSON_OR_TEXT)
"""Output of a function that takes a list: texts, and other values as JSON."""


def call_function(
    function: Function,
    calling: Calling,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
) -> Any:
    """Return the outputs of the function for these inputs.

    Args:
        function: The function of the user; its exceptions propagate.
        calling: Form of its arguments.
        inputs: Arrays [batch, …] by name, or one row of each without the batch axis; for `list` one
            list, or one element, and for `frame` one data frame.
        params: Parameters of the queries; None for a function that does not take any.
    """
    more = {} if params is None else {"params": params}
    if calling == "keywords":
        return function(**inputs, **more)
    if calling == "mapping":
        return function(dict(inputs), **more)
    return function(next(iter(inputs.values())), **more)


async def call_coroutine_function(
    function: Function,
    calling: Calling,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
) -> Any:
    """Return the outputs of a coroutine function; see `call_function`."""
    return await call_function(function, calling, inputs, params)


def call_hook(hook: Function, *arguments: Any) -> Any:
    """Return the result of a hook of the user, such as `check_health`; its exceptions propagate."""
    return hook(*arguments)


CALLERS = frozenset({call_function.__code__, call_coroutine_function.__code__, call_hook.__code__})
"""Code that calls user code; the frames below it are those of the user."""


def named_outputs(result: Any, calling: Calling) -> dict[str, Array]:
    """Return the outputs in a function's result, as arrays by name.

    The keys of a dictionary, the columns of a data frame and the fields of a structured array are the
    names. The items of a tuple are named `output0`, `output1`, …. Any other result is one array with
    the name `output`. A series with missing elements, or such a column, also gives a mask.

    Raises:
        ModelFailed: an output is not an array of numbers, texts or times.
    """
    if isinstance(result, _UNFINISHED):
        raise ModelFailed(_unfinished(result))
    if calling == "list":
        return {OUTPUT_NAME: _texts(result)}
    if result is None:
        raise ModelFailed("the function returned None; it must return an output for each row")
    return {
        part: array
        for name, value in _named_parts(result)
        for part, array in _arrays(name, value).items()
    }


def _named_parts(result: Any) -> Iterable[tuple[str, Any]]:
    """Yield each output of a result with its name."""
    if isinstance(result, Mapping):
        return [(str(name), value) for name, value in result.items()]
    if isinstance(result, tuple):
        return [(f"{OUTPUT_NAME}{index}", value) for index, value in enumerate(result)]
    if library_of_frame(result):
        return [(str(name), result[name]) for name in _unique(result)]
    if isinstance(result, np.ndarray) and result.dtype.names:
        return [(name, result[name]) for name in result.dtype.names]
    return [(OUTPUT_NAME, result)]


def _unique(frame: Any) -> Sequence[Any]:
    """Return the labels of the columns of a data frame.

    Raises:
        ModelFailed: two columns have equal labels, or labels with equal texts.
    """
    labels = list(frame.columns)
    if len(set(map(str, labels))) < len(labels):
        raise ModelFailed("the function returned a data frame with two columns of one name")
    return labels


def _arrays(name: str, value: Any) -> dict[str, Array]:
    """Return the array of an output, and the mask of one with missing elements."""
    if not library_of_series(value):
        return {name: as_array(name, value)}
    try:
        column = column_of(name, value)
    except InvalidInput as error:
        raise ModelFailed(f"the function returned a series: {error.message}") from error
    return column.arrays(name)


_UNFINISHED = (CoroutineType, GeneratorType, AsyncGeneratorType)


def _unfinished(result: Any) -> str:
    if isinstance(result, CoroutineType):
        # An unclosed coroutine makes Python warn that nothing awaited it.
        result.close()
        return (
            "the function returned a coroutine, which nothing awaits; deploy an async def function"
        )
    return (
        "the function returned a generator; return a list of all outputs instead of yielding them"
    )


def as_array(name: str, value: Any, *, takes_missing: bool = False) -> Array:
    """Return an array with the elements of a list, array, data frame or tensor of a framework.

    Args:
        name: Name of the array, for messages.
        value: The list, array, data frame or tensor.
        takes_missing: True to convert None and the NA of pandas to NaN.

    Raises:
        ModelFailed: an element is not a number or text, or rows differ in length.
    """
    if isinstance(value, (set, frozenset)):
        raise ModelFailed(f"{name!r} is a set, whose elements have no order; make it a list")
    if hasattr(value, "detach"):
        # A torch tensor may belong to an autograd graph or be on a GPU.
        value = value.detach().cpu()
    kinds = _kinds(value)
    if not kinds <= _UNMASKED and _has_mask(value):
        raise ModelFailed(
            f"{name!r} has masked elements, which no datatype holds; fill them, such as by "
            ".filled(float('nan'))"
        )
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ModelFailed(f"{name!r} is not an array: {error}") from error
    if array.dtype.kind in "SUT":
        # The second conversion keeps trailing zero bytes, which numpy's text types lose.
        array = np.asarray(value, dtype=object)
    if array.dtype.kind == "O":
        return _array_of_objects(name, array, takes_missing)
    if array.dtype.kind in NANOSECONDS:
        return array
    if array.dtype.newbyteorder("=") not in _KNOWN_DTYPES:
        raise ModelFailed(
            f"{name!r} has numpy type {array.dtype}, which no datatype holds; convert it to "
            "numbers, texts or times"
        )
    if array.dtype == np.float64 and not hasattr(value, "dtype") and not kinds <= _FLOATS:
        # numpy rounds the integers of a list that mixes integers and fractions.
        _check_integers(name, array, value)
    return array


def _has_mask(value: Any) -> bool:
    """Return whether an array, or an array in a list, has masked elements."""
    if isinstance(value, (list, tuple)):
        return not _kinds(value) <= _UNMASKED and any(map(_has_mask, value))
    return isinstance(value, np.ma.MaskedArray) and bool(np.ma.is_masked(value))


def _kinds(value: Any) -> set[type]:
    """Return the types of the elements of a list, or the type of another value."""
    return set(map(type, value)) if isinstance(value, (list, tuple)) else {type(value)}


_FLOATS = {float, np.float64, np.float32, np.float16}
_UNMASKED = {bool, int, float, str, bytes, np.ndarray, *np.sctypeDict.values()}
_LARGEST_EXACT = 2.0**53


def _check_integers(name: str, array: Array, value: Any) -> None:
    if (np.abs(array) >= _LARGEST_EXACT).any():
        try:
            narrowed(name, np.asarray(value, dtype=object), DataType.FP64)
        except InvalidInput as error:
            raise ModelFailed(error.message) from error


def _array_of_objects(name: str, array: Array, takes_missing: bool) -> Array:
    """Return an array of texts unchanged, and an array of numbers with the type of the numbers."""
    elements = array.ravel().tolist()
    if _kinds(elements) <= _TEXTS or all(isinstance(each, (str, bytes)) for each in elements):
        return array
    plain = [math.nan if takes_missing and _is_missing(each) else each for each in elements]
    if all(isinstance(each, _NUMBERS) for each in plain):
        numbers = np.asarray(plain)
        if numbers.dtype.kind != "O":
            if numbers.dtype == np.float64:
                _check_integers(name, numbers, plain)
            return as_array(name, numbers.reshape(array.shape))
    too_large = [each for each in plain if type(each) is int and not -(2**63) <= each < 2**64]
    if too_large:
        raise ModelFailed(
            f"{name!r} holds {too_large[0]}, which is not a 64-bit integer; give floats"
        )
    odd = min(elements, key=_is_number_or_text)
    raise ModelFailed(
        f"{name!r} holds a value of type {type(odd).__name__}; its elements must all be numbers "
        f"of one datatype, or all texts{_advice(odd)}"
    )


_TEXTS = {str, bytes}
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


def _is_number_or_text(value: Any) -> int:
    return isinstance(value, _NUMBERS) + 2 * isinstance(value, (str, bytes))


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType"


def _advice(value: Any) -> str:
    if _is_missing(value):
        return "; for a missing number give float('nan')"
    return "; give its .toarray()" if hasattr(value, "toarray") else ""


_KNOWN_DTYPES = {datatype.dtype.newbyteorder("=") for datatype in DataType}


def _texts(result: Any) -> Array:
    is_list = isinstance(result, Sequence) or (isinstance(result, np.ndarray) and result.ndim > 0)
    if not is_list or isinstance(result, (str, bytes)):
        raise ModelFailed(
            f"the function returned {'None' if result is None else f'a {type(result).__name__}'}; "
            "it must return a list with an element for each input"
        )
    array = np.empty(len(result), dtype=object)
    array[:] = elements_of(result)
    return array


def checked_outputs(
    outputs: Mapping[str, Array], specs: Sequence[TensorSpec], num_rows: int
) -> list[Array]:
    """Return the outputs in the order of the signature, with the types of the signature.

    Raises:
        ModelFailed: an output is missing, or has a wrong type, shape or number of rows.
    """
    if any(name.endswith(NULL_MASK_SUFFIX) for name in outputs):
        known = {spec.name for spec in specs}
        for spec in specs:
            _check_missing(outputs, spec, mask_name(spec.name) in known)
    return [_checked_output(outputs, spec, num_rows) for spec in specs]


def _check_missing(outputs: Mapping[str, Array], spec: TensorSpec, has_mask: bool) -> None:
    mask = outputs.get(mask_name(spec.name))
    is_told = has_mask or (has_sign(spec) and spec.name not in outputs)
    if mask is not None and not is_told and mask.any():
        raise ModelFailed(
            f"the function returned a missing value in output {spec.name!r}, and none for its example; "
            "deploy it with an example for which one is missing, or fill them"
        )


def _checked_output(outputs: Mapping[str, Array], spec: TensorSpec, num_rows: int) -> Array:
    array = outputs.get(spec.name)
    if array is None:
        if spec.content is Content.NULL_MASK:
            return np.zeros(num_rows, bool)
        if mask_name(spec.name) in outputs:
            return missing_values(spec, num_rows)
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
            f"signature says {list(spec.shape)}; if sizes vary, deploy it with examples= of "
            "different sizes"
        )
    if array.dtype.kind in NANOSECONDS or spec.content.dtype:
        return _checked_times(array, spec)
    is_text = array.dtype.kind == "O"
    if is_text != (spec.datatype is DataType.BYTES):
        got = "texts" if is_text else f"numbers ({array.dtype})"
        raise ModelFailed(
            f"the function returned {got} in output {spec.name!r}; its signature says "
            f"{spec.datatype.name}"
        )
    if is_text or (array.dtype == spec.datatype.dtype and spec.datatype is not DataType.BF16):
        return array
    if not np.can_cast(array.dtype, spec.datatype.dtype, "same_kind"):
        raise ModelFailed(
            f"the function returned {array.dtype} in output {spec.name!r}, which does not fit "
            f"{spec.datatype.name}"
        )
    try:
        return narrowed(spec.name, array, spec.datatype)
    except InvalidInput as error:
        raise ModelFailed(f"the function's output breaks its signature: {error.message}") from error


def _checked_times(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind != spec.dtype.kind:
        raise ModelFailed(
            f"the function returned {array.dtype} in output {spec.name!r}; its signature says "
            f"{spec.dtype}"
        )
    try:
        return nanoseconds(spec.name, array)
    except InvalidInput as error:
        raise ModelFailed(f"the function's output breaks its signature: {error.message}") from error

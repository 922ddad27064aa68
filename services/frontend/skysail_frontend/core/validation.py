"""Validation of the inputs of a query against the signature of its model.

Names, types, shapes and the number of rows are checked first, because these checks are cheap. Data
are read and converted only for a shape that the model accepts.

The error texts begin like those of Triton, because tests of public clients compare them.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from skysail_common.errors import InvalidInput, shown
from skysail_common.frames.packing import packed_data
from skysail_common.tensor_conversions import cannot_become
from skysail_common.tensors import Content, Data, DataType, Signature, Tensor, TensorSpec
from skysail_frontend.core.lazy_tensors import LazyTensor, PartTensor
from skysail_frontend.core.nulls import check_num_times, converted, num_time_texts, with_all_inputs
from skysail_frontend.core.routes import ServedVersion

MAX_TEXTS = 65_536
"""Most BYTES elements of a query; to check them takes about 5 ms."""

MAX_NAMED = 30
"""Most names of inputs in a message."""

_MAX_DIMENSION = 2**40
_MAX_WIDENED = 2 * 1024 * 1024
"""Most elements of an input that is converted; the conversion takes 5 to 20 ms."""
_length_at = struct.Struct("<I").unpack_from


@dataclass(frozen=True)
class Inputs:
    """The packed inputs of a query, in the order of the signature."""

    data: tuple[Data, ...]
    rows: int
    variable_dims: tuple[int, ...]


def validate_inputs(
    version: ServedVersion,
    tensors: Sequence[Tensor | LazyTensor | PartTensor],
    max_rows: int,
    label: str = "",
    *,
    widens: bool = False,
) -> Inputs:
    """Return the inputs of a query if they fit the signature of the model.

    Args:
        version: The model version.
        tensors: The inputs in any order; a single one may have no name.
        max_rows: Largest number of rows of a query.
        label: Prefix of error messages, such as `[request id: 7] ` in Triton.
        widens: True to convert numbers to the types of the signature, and texts to times.

    Raises:
        InvalidInput: an input does not fit; the message names the input.
    """
    model = version.name.model_name
    signature = version.signature
    specs = signature.inputs
    is_matrix = bool(signature.frame) and _is_matrix(signature, tensors)
    if is_matrix:
        specs = signature.packed_inputs
    if len(specs) == 1 and len(tensors) == 1 and tensors[0].name in ("", specs[0].name):
        ordered = tensors
    else:
        ordered = _order_inputs(model, specs, tensors, label, widens=widens)
    rows = ordered[0].shape[0] if ordered[0].shape else 0
    dims: list[int] = []
    num_texts = num_times = 0
    for spec, tensor in zip(specs, ordered, strict=True):
        if tensor.datatype is not spec.datatype:
            _check_type(model, spec, tensor.datatype, label, widens=widens)
            num_times += num_time_texts(spec, tensor)
        _check_shape(model, spec, tensor.shape, label)
        if tensor.shape[0] != rows:
            raise InvalidInput(
                f"{label}input '{spec.name}' batch size does not match other inputs for '{model}'"
            )
        dims.extend(tensor.shape[axis] for axis in spec.variable_axes)
        if spec.datatype is DataType.BYTES:
            num_texts += prod(tensor.shape)
    if rows > max_rows:
        raise InvalidInput(
            f"{label}inference request batch-size must be <= {max_rows} for "
            f"'{model}'; send {rows} rows in several requests"
        )
    if num_texts > MAX_TEXTS:
        raise InvalidInput(
            f"{label}expected at most {MAX_TEXTS} string elements for model '{model}', got "
            f"{num_texts}; send them in several requests"
        )
    check_num_times(num_times)
    data = tuple(
        _validate_data(model, spec, tensor, label)
        for spec, tensor in zip(specs, ordered, strict=True)
    )
    if signature.frame and not is_matrix:
        data = packed_data(signature, data, rows)
    return Inputs(data, rows, tuple(dims))


def _is_matrix(signature: Signature, tensors: Sequence[Tensor | LazyTensor | PartTensor]) -> bool:
    """Return whether a query has all columns in one matrix without a name."""
    is_only = len(tensors) == 1 and not tensors[0].name and len(tensors[0].shape) > 1
    return is_only and len(signature.packed_inputs) == 1 and len(signature.inputs) > 1


def _order_inputs(
    model: str,
    specs: Sequence[TensorSpec],
    tensors: Sequence[Tensor | LazyTensor | PartTensor],
    label: str,
    *,
    widens: bool,
) -> list[Tensor | LazyTensor | PartTensor]:
    names = {spec.name for spec in specs}
    given = tensors
    if len(tensors) != len(specs) or not all(tensor.name in names for tensor in tensors):
        tensors = with_all_inputs(specs, tensors, widens=widens)
    by_name: dict[str, Tensor | LazyTensor | PartTensor] = {}
    for tensor in tensors:
        if not tensor.name:
            takes = names_of(specs)
            raise InvalidInput(
                f"model '{model}' takes inputs by name: give a dictionary with {takes}"
            )
        if tensor.name not in names:
            raise InvalidInput(
                f"unexpected inference input '{shown(tensor.name)}' for model '{model}'; it takes "
                f"{names_of(specs)}"
            )
        if tensor.name in by_name:
            raise InvalidInput(f"{label}input '{tensor.name}' already exists in request")
        by_name[tensor.name] = tensor
    missing = [spec.name for spec in specs if spec.name not in by_name]
    if missing:
        required = sum(spec.content is not Content.NULL_MASK for spec in specs)
        raise InvalidInput(
            f"{label}expected {required} inputs but got {len(given)} inputs for model '{model}'. Got "
            f"input(s) {sorted(each.name for each in given)[:MAX_NAMED]}, but missing required "
            f"input(s) {missing[:MAX_NAMED]}. Please provide all required input(s)."
        )
    return [by_name[spec.name] for spec in specs]


def names_of(specs: Sequence[TensorSpec]) -> str:
    """Return the names of inputs for a message, without those that a query may leave out."""
    names = [spec.name for spec in specs if spec.content is not Content.NULL_MASK]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}"


def _check_type(
    model: str, spec: TensorSpec, datatype: DataType, label: str, *, widens: bool
) -> None:
    """Raise `InvalidInput` unless the datatype may be converted to that of the signature."""
    if not widens:
        raise InvalidInput(
            f"{label}inference input '{spec.name}' data-type is '{datatype.name}', but model "
            f"'{model}' expects '{spec.datatype.name}'"
        )
    if spec.content is Content.DATETIME and datatype is DataType.BYTES:
        return
    if spec.content is Content.DURATION and datatype is DataType.BYTES:
        raise InvalidInput(
            f"input '{spec.name}' takes durations, got texts; give durations of Python, numpy or "
            "pandas, or integers in nanoseconds"
        )
    # The conversion of numbers finds out whether they fit; texts can never be converted.
    if DataType.BYTES in (datatype, spec.datatype):
        raise cannot_become(spec.name, datatype, spec.datatype)


def _check_shape(model: str, spec: TensorSpec, shape: tuple[int, ...], label: str) -> None:
    if len(shape) == len(spec.shape):
        for want, size in zip(spec.shape, shape, strict=True):
            if not (0 < size <= _MAX_DIMENSION and (size == want or want == -1)):
                break
        else:
            return
    expected, got = _dims(spec.shape), _dims(shape)
    # The note names the bad size because a size of -1 would look like the expected shape.
    odd = next((size for size in shape if not 0 < size <= _MAX_DIMENSION), None)
    note = (
        "the first dimension is the batch and is at least 1"
        if odd is None
        else f"the input has a dimension of size {odd}; sizes are from 1 to {_MAX_DIMENSION}"
    )
    raise InvalidInput(
        f"{label}unexpected shape for input '{spec.name}' for model '{model}'. Expected "
        f"[{expected}], got [{got}]. NOTE: {note}."
    )


def _dims(shape: Sequence[int]) -> str:
    return ",".join(str(size) for size in shape[:16]) + (",…" if len(shape) > 16 else "")


def _validate_data(
    model: str, spec: TensorSpec, tensor: Tensor | LazyTensor | PartTensor, label: str
) -> Data:
    """Return the validated data of an input whose shape fits the signature."""
    count = prod(tensor.shape)
    is_texts = spec.datatype is DataType.BYTES
    num_bytes = count * spec.datatype.element_bytes
    if isinstance(tensor, LazyTensor):
        got = tensor.num_elements
        if got != count and is_texts:
            raise _wrong_number(model, spec, count, str(got), label)
        if got != count:
            raise _wrong_size(model, spec, num_bytes, got * spec.datatype.element_bytes, label)
        return tensor.convert()
    data = tensor.data
    if is_texts:
        _check_texts(model, spec, data, count, label)
    elif tensor.datatype is DataType.BYTES:
        _check_texts(model, spec, data, count, label)
        return converted(spec, tensor).data
    else:
        expected = count * tensor.datatype.element_bytes
        if len(data) != expected:
            raise _wrong_size(model, spec, expected, len(data), label)
        if tensor.datatype is not spec.datatype:
            return _widen(spec, tensor, count)
    # A view keeps its whole message in memory.
    if isinstance(data, memoryview) and 2 * len(data) < memoryview(data.obj).nbytes:
        return bytes(data)
    return data


def _wrong_size(model: str, spec: TensorSpec, expected: int, got: int, label: str) -> InvalidInput:
    return InvalidInput(
        f"{label}input byte size mismatch for input '{spec.name}' for model '{model}'. "
        f"Expected {expected}, got {got}"
    )


def _wrong_number(model: str, spec: TensorSpec, count: int, got: str, label: str) -> InvalidInput:
    return InvalidInput(
        f"{label}expected {count} string elements for inference input '{spec.name}' for model "
        f"'{model}', got {got}"
    )


def _check_texts(model: str, spec: TensorSpec, data: Data, count: int, label: str) -> None:
    """Check the lengths of the elements of a BYTES tensor without a copy."""
    begin = length = num_whole = 0
    end = len(data)
    try:
        while num_whole < count:
            (length,) = _length_at(data, begin)
            begin += 4 + length
            num_whole += 1
    except struct.error:
        # No length follows: there are too few elements, or the last one exceeds the data.
        pass
    if begin > end:
        raise InvalidInput(
            f"{label}incomplete string data for inference input '{spec.name}', expecting string of "
            f"length {length} but only {end - begin + length} bytes available"
        )
    if 0 < end - begin < 4:
        raise InvalidInput(
            f"{label}incomplete string length for inference input '{spec.name}', expecting 4 bytes "
            f"but only {end - begin} available"
        )
    if begin < end or num_whole < count:
        got = "more" if begin < end else str(num_whole)
        raise _wrong_number(model, spec, count, got, label)


def _widen(spec: TensorSpec, tensor: Tensor | PartTensor, count: int) -> bytes:
    """Return data converted to the datatype of the signature, if that is lossless."""
    if count > _MAX_WIDENED:
        raise InvalidInput(
            f"cannot convert tensor '{spec.name}': it has {count} elements of "
            f"{tensor.datatype.name}, at most {_MAX_WIDENED} are converted; send "
            f"{spec.datatype.name}"
        )
    return converted(spec, tensor).data

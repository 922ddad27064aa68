"""Holds the inputs of a query against the signature of its model, before anything is allocated.

The texts begin as Triton's do, which tests of public clients pin; help follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from skysail_common.conversions import cast
from skysail_common.errors import InvalidInput
from skysail_common.tensors import DataType, Tensor, TensorSpec, split_bytes_elements
from skysail_frontend.routes import ServedVersion

_MAX_DIMENSION = 2**40


@dataclass(frozen=True)
class Inputs:
    """The inputs of a query, in the order of the signature."""

    data: tuple[bytes, ...]
    rows: int
    variable_dims: tuple[int, ...]


def checked_inputs(
    version: ServedVersion, tensors: Sequence[Tensor], max_rows: int, label: str = ""
) -> Inputs:
    """Return the inputs if they are what the model takes.

    Args:
        version: The model version.
        tensors: The inputs, in any order; a sole one may have no name.
        max_rows: Most rows of a query.
        label: Put before messages, as Triton puts `[request id: 7] `.

    Raises:
        InvalidInput: says what is wrong with which input.
    """
    model = version.name.model_name
    specs = version.signature.inputs
    if len(specs) == 1 and len(tensors) == 1 and tensors[0].name in ("", specs[0].name):
        ordered: Sequence[Tensor] = tensors
    else:
        ordered = _ordered(model, specs, tensors, label)
    rows = ordered[0].shape[0] if ordered[0].shape else 0
    dims: list[int] = []
    for spec, tensor in zip(specs, ordered, strict=True):
        if tensor.datatype is not spec.datatype:
            raise InvalidInput(
                f"{label}inference input '{spec.name}' data-type is '{tensor.datatype.name}', but "
                f"model '{model}' expects '{spec.datatype.name}'"
            )
        _check_shape(model, spec, tensor.shape, label)
        if tensor.shape[0] != rows:
            raise InvalidInput(
                f"{label}input '{spec.name}' batch size does not match other inputs for '{model}'"
            )
        _check_size(model, spec, tensor, label)
        dims.extend(tensor.shape[axis] for axis in spec.variable_axes)
    if rows > max_rows:
        raise InvalidInput(
            f"{label}inference request batch-size must be <= {max_rows} for "
            f"'{model}'; send {rows} rows in several requests"
        )
    return Inputs(tuple(tensor.data for tensor in ordered), rows, tuple(dims))


def _ordered(
    model: str, specs: Sequence[TensorSpec], tensors: Sequence[Tensor], label: str
) -> list[Tensor]:
    names = {spec.name for spec in specs}
    by_name: dict[str, Tensor] = {}
    for tensor in tensors:
        if not tensor.name:
            takes = ", ".join(spec.name for spec in specs)
            raise InvalidInput(
                f"model '{model}' takes inputs by name: give a dictionary with {takes}"
            )
        if tensor.name not in names:
            raise InvalidInput(
                f"unexpected inference input '{tensor.name}' for model '{model}'; it takes "
                f"{', '.join(spec.name for spec in specs)}"
            )
        if tensor.name in by_name:
            raise InvalidInput(f"{label}input '{tensor.name}' already exists in request")
        by_name[tensor.name] = tensor
    missing = [spec.name for spec in specs if spec.name not in by_name]
    if missing:
        raise InvalidInput(
            f"{label}expected {len(specs)} inputs but got {len(tensors)} inputs for model "
            f"'{model}'. Got input(s) {sorted(by_name)}, but missing required input(s) {missing}. "
            "Please provide all required input(s)."
        )
    return [by_name[spec.name] for spec in specs]


def _check_shape(model: str, spec: TensorSpec, shape: tuple[int, ...], label: str) -> None:
    if len(shape) == len(spec.shape):
        for want, size in zip(spec.shape, shape, strict=True):
            if not (0 < size <= _MAX_DIMENSION and (size == want or want == -1)):
                break
        else:
            return
    expected, got = _dims(spec.shape), _dims(shape)
    raise InvalidInput(
        f"{label}unexpected shape for input '{spec.name}' for model '{model}'. Expected "
        f"[{expected}], got [{got}]. NOTE: the first dimension is the batch and is at least 1."
    )


def _dims(shape: Sequence[int]) -> str:
    return ",".join(str(size) for size in shape[:16]) + (",…" if len(shape) > 16 else "")


def _check_size(model: str, spec: TensorSpec, tensor: Tensor, label: str) -> None:
    count = prod(tensor.shape)
    if spec.datatype is DataType.BYTES:
        try:
            split_bytes_elements(tensor.data, count)
        except InvalidInput as error:
            # Triton names the input in the midst of its text.
            what, _, detail = error.message.replace(": ", ", ", 1).partition(", ")
            where = f"'{spec.name}' for model '{model}'" if "elements" in what else f"'{spec.name}'"
            raise InvalidInput(f"{label}{what} for inference input {where}, {detail}") from error
        return
    expected = count * spec.datatype.element_bytes
    if len(tensor.data) != expected:
        raise InvalidInput(
            f"{label}input byte size mismatch for input '{spec.name}' for model '{model}'. "
            f"Expected {expected}, got {len(tensor.data)}"
        )


def widened(version: ServedVersion, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors with the element types that the model takes, where no meaning is lost.

    Raises:
        InvalidInput: a tensor's elements cannot become what the model takes.
    """
    specs = {spec.name: spec for spec in version.signature.inputs}
    sole = version.signature.inputs[0] if len(specs) == 1 else None
    result = []
    for tensor in tensors:
        spec = specs.get(tensor.name) or (sole if not tensor.name else None)
        if spec is not None and tensor.datatype is not spec.datatype:
            # By its name, which the caller need not give, for the sake of messages.
            tensor = cast(replace(tensor, name=spec.name), spec.datatype)
        result.append(tensor)
    return result

"""A matrix whose columns are inputs by name, as the numbers of a data frame travel."""

from collections.abc import Sequence

import numpy as np

from skysail_common.errors import InvalidInput, shown
from skysail_common.frames.nulls import has_sign, mask_name
from skysail_common.tensors import (
    Array,
    Content,
    DataType,
    Signature,
    Tensor,
    TensorSpec,
    from_numpy,
    to_numpy,
)
from skysail_frontend.core.lazy_tensors import PartTensor
from skysail_frontend.core.validation import names_of

_MAX_WHOLE = 2.0**63


def split_columns(
    signature: Signature, tensors: Sequence[Tensor | PartTensor], columns: Sequence[str]
) -> list[Tensor | PartTensor]:
    """Return the inputs of a query whose first input is a matrix with these columns.

    A model with one matrix as its input takes it as it is.

    Raises:
        InvalidInput: the shape does not fit the columns, or the model has no input of a name.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    takes_matrix = len(specs) == 1 and len(signature.inputs[0].shape) > 1
    if not tensors or (takes_matrix and len(tensors) == 1):
        return list(tensors)
    matrix, others = tensors[0], tensors[1:]
    if not others and _is_whole(signature, matrix, columns):
        return [matrix]
    for name in columns:
        if name not in specs:
            raise InvalidInput(
                f"unexpected column '{shown(name)}'; the model takes {names_of(signature.inputs)}"
            )
    if len(matrix.shape) != 2 or matrix.shape[1] != len(columns):
        raise InvalidInput(
            f"the matrix of columns has shape {list(matrix.shape)} and {len(columns)} names; send "
            "[rows, columns]"
        )
    if matrix.datatype in (DataType.BYTES, DataType.BOOL):
        raise InvalidInput("the matrix of columns has no numbers; send its columns by name")
    whole = Tensor("columns", matrix.datatype, matrix.shape, bytes(matrix.data))
    rows = np.ascontiguousarray(to_numpy(whole).T)
    parts: list[Tensor | PartTensor] = []
    for name, row in zip(columns, rows, strict=True):
        if specs[name].datatype is matrix.datatype:
            parts.append(Tensor(name, matrix.datatype, matrix.shape[:1], row.tobytes()))
        else:
            parts += _converted(specs[name], row)
    return [*parts, *others]


def _is_whole(signature: Signature, matrix: Tensor | PartTensor, columns: Sequence[str]) -> bool:
    """Return whether a matrix has the columns of a model in their order, with fitting numbers."""
    packed = signature.packed_inputs
    if len(packed) > 1 or len(packed[0].shape) != 2 or packed[0].shape[1] != len(columns):
        return False
    fits = matrix.datatype is packed[0].datatype or packed[0].dtype.kind == "f"
    return fits and list(columns) == [spec.name for spec in signature.inputs]


def _converted(spec: TensorSpec, numbers: Array) -> list[Tensor]:
    """Return a column of another datatype, with its mask if elements are missing.

    A later check converts what remains, or refuses it.
    """
    if numbers.dtype.kind != "f" or spec.dtype.kind == "f":
        return [from_numpy(spec.name, numbers)]
    nulls = np.isnan(numbers)
    mask = []
    if nulls.any():
        mask = [from_numpy(mask_name(spec.name), nulls, Content.NULL_MASK)]
        if nulls.all():
            return mask
        numbers = np.where(nulls, numbers.dtype.type(0), numbers)
    is_whole = (np.rint(numbers) == numbers) & (np.abs(numbers) < _MAX_WHOLE)
    if spec.dtype.kind in "iu" and not has_sign(spec) and is_whole.all():
        numbers = numbers.astype(np.int64)
    return [from_numpy(spec.name, numbers), *mask]

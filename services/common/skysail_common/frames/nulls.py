"""Missing values in tensors: NaN, NaT, or a mask beside the tensor."""

import numpy as np

from skysail_common.tensors import Array, TensorSpec

NULL_MASK_SUFFIX = ".is_null"
"""End of the name of a mask, whose beginning is the name of its tensor."""


def mask_name(name: str) -> str:
    """Return the name of the mask of a tensor."""
    return f"{name}{NULL_MASK_SUFFIX}"


def has_sign(spec: TensorSpec) -> bool:
    """Return whether an element can say by itself that it is missing."""
    return spec.dtype.kind in "fMm"


def missing_values(spec: TensorSpec, num_rows: int) -> Array:
    """Return missing values [rows]: NaN, NaT, or values that count only with a mask."""
    if spec.dtype.kind == "O":
        return np.full(num_rows, "", object)
    if spec.dtype.kind == "f":
        return np.full(num_rows, np.nan, spec.dtype)
    blank: Array = np.zeros(num_rows, spec.dtype)
    if has_sign(spec):
        blank[:] = np.array("NaT", spec.dtype)
    return blank

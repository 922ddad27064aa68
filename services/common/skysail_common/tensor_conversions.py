"""Conversion of numbers to another datatype, which fails instead of changing their meaning.

An integer keeps its value. A floating-point number is rounded to the nearest number of the datatype,
ties to even; a finite number never becomes infinite.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skysail_common.errors import InvalidInput
from skysail_common.tensors import Array, DataType, Tensor, to_numpy

_BF16_BITS = 8
_INTEGERS = (int, np.integer)
_RANGE = "give smaller numbers, or use a wider datatype"


def cast(tensor: Tensor, datatype: DataType) -> Tensor:
    """Return the tensor with elements of another type, if they keep their meaning.

    Integers can become floating-point numbers, and each type a wider or narrower type of its kind.
    Floating-point numbers never become integers.

    Raises:
        InvalidInput: the types are of different kinds, or a number does not fit.
    """
    if tensor.datatype is datatype:
        return tensor
    source = to_numpy(tensor)
    target = datatype.dtype
    is_possible = datatype not in (DataType.BYTES, DataType.BF16) and (
        # An unsigned type may hold a signed number; `narrowed` checks the values.
        np.can_cast(source.dtype, target, "same_kind") or (source.dtype.kind + target.kind == "iu")
    )
    if tensor.datatype is DataType.BYTES or not is_possible:
        raise cannot_become(tensor.name, tensor.datatype, datatype)
    # An empty tensor may have a shape that numpy rejects for a wider type.
    data = narrowed(tensor.name, source, datatype).tobytes() if source.size else b""
    return Tensor(tensor.name, datatype, tensor.shape, data, tensor.content)


def cannot_become(name: str, given: DataType, wanted: DataType) -> InvalidInput:
    """Return the error for elements whose datatype is of another kind than the wanted datatype."""
    if given is DataType.BYTES:
        fix = "give numbers instead of texts"
    elif wanted is DataType.BYTES:
        fix = "give texts instead of numbers"
    elif wanted is DataType.BOOL:
        fix = "give True or False"
    elif wanted.dtype.kind in "iu" and given.dtype.kind == "f":
        fix = "give integers, because a fraction would be lost"
    else:
        fix = f"give elements of {wanted.name}"
    return InvalidInput(
        f"tensor {name!r} has datatype {given.name}, which cannot become {wanted.name}; {fix}"
    )


def packed(name: str, numbers: Sequence[Any], datatype: DataType) -> bytes:
    """Return the data of numbers from a protobuf field, which is wider than some datatypes.

    Raises:
        InvalidInput: a number does not fit; the message names it.
    """
    dtype = datatype.dtype
    if dtype.kind in "iu" and dtype.itemsize < 4:
        # The array is as wide as the field, so that `narrowed` sees a number that does not fit.
        dtype = np.dtype(f"{dtype.kind}4")
    return narrowed(name, np.array(numbers, dtype), datatype).tobytes()


def narrowed(name: str, array: Array, datatype: DataType) -> Array:
    """Return numbers as elements of a datatype; elements for BF16 are rounded float32.

    Args:
        name: Name of the tensor, for messages.
        array: Numbers of one numpy type, or objects: `int`, `float`, and None for a missing
            number, which becomes NaN.
        datatype: A datatype of integers for integers, or one of floating-point numbers.

    Raises:
        InvalidInput: a number does not fit; the message names it.
    """
    target: np.dtype[Any] = datatype.dtype
    if array.dtype == target and datatype is not DataType.BF16:
        return array
    if target.kind in "iu" and array.size:
        limits = np.iinfo(target)
        for extreme in (int(array.min()), int(array.max())):
            if not limits.min <= extreme <= limits.max:
                raise _misfit(name, datatype, f"{extreme} does not fit", _RANGE)
    try:
        with np.errstate(over="ignore"):
            result = array.astype(target)
    except OverflowError as error:
        raise _misfit(name, datatype, "an integer does not fit", _RANGE) from error
    if datatype is DataType.BF16:
        result = _rounded_to_bf16(result)
    if target.kind == "f":
        _check_floats(name, array, result, datatype)
    return result


def _rounded_to_bf16(array: Array) -> Array:
    # BF16 is the upper half of FP32. The addend makes the lower half carry if it is above its
    # middle, or at its middle while the upper half is odd.
    bits = np.ascontiguousarray(array).view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    # The carry turns some NaN into a number.
    floats = rounded.view("<f4").reshape(array.shape)
    numbers: Array = np.where(np.isnan(array), np.float32(np.nan), floats)
    return numbers


def _check_floats(name: str, before: Array, after: Array, datatype: DataType) -> None:
    """Check that all integers kept their value and all finite numbers stayed finite."""
    dtype: np.dtype[Any] = datatype.dtype
    bits = _BF16_BITS if datatype is DataType.BF16 else int(np.finfo(dtype).nmant) + 1
    # Integers of that many bits convert exactly, and no larger integer rounds to below that size.
    are_large = np.abs(after) >= 2.0**bits
    if not are_large.any():
        return
    before, after = before[are_large], after[are_large]
    kind = before.dtype.kind
    if kind in "iu":
        has_changed = _have_changed(before, after)
    elif kind == "f":
        has_changed = np.isinf(after) & np.isfinite(before)
    else:
        pairs = zip(before.tolist(), after.tolist(), strict=True)
        has_changed = np.array([_has_changed(was, is_now) for was, is_now in pairs])
    if has_changed.any():
        was, is_now = before[has_changed][0], after[has_changed][0]
        advice = "give floating-point numbers, which may be rounded"
        if np.isinf(is_now):
            advice = _RANGE
        raise _misfit(name, datatype, f"{was} would become {is_now}", advice)


def _has_changed(was: Any, is_now: float) -> bool:
    if isinstance(was, _INTEGERS):
        # numpy compares its own integers as floats.
        return is_now != int(was)
    return abs(is_now) == np.inf and bool(is_now != was)


def _have_changed(integers: Array, floats: Array) -> "npt.NDArray[np.bool_]":
    dtype: np.dtype[Any] = integers.dtype
    wide: npt.NDArray[np.float64] = floats.astype("<f8")
    with np.errstate(invalid="ignore"):
        back = wide.astype(dtype)
    # The largest integer is one less than a power of 2, and floats round it up to that power.
    are_beyond = np.isinf(wide) | (wide >= float(np.iinfo(dtype).max))
    changed: npt.NDArray[np.bool_] = are_beyond | (back != integers)
    return changed


def _misfit(name: str, datatype: DataType, cause: str, advice: str) -> InvalidInput:
    return InvalidInput(f"cannot convert tensor {name!r} to {datatype.name}: {cause}; {advice}")

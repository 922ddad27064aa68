"""Missing elements of inputs: masks that a query may leave out, and what takes the place of values.

A query names the missing elements of an input in a mask beside it. Without a mask no element is
missing; a mask alone says that all are.
"""

from collections.abc import Sequence
from math import prod

import numpy as np

from skysail_common.errors import InvalidInput
from skysail_common.frames.nulls import NULL_MASK_SUFFIX, has_sign, mask_name, missing_values
from skysail_common.tensor_conversions import cast
from skysail_common.tensors import (
    Array,
    Content,
    DataType,
    Tensor,
    TensorSpec,
    from_numpy,
    to_numpy,
)
from skysail_common.times import MISSING_TIME, nanoseconds_of_texts
from skysail_frontend.core.lazy_tensors import LazyTensor, PartTensor

MAX_TIME_TEXTS = 1024
"""Most times as texts in a query; to read them takes about 10 ms."""

AnyTensor = Tensor | LazyTensor | PartTensor


def with_all_inputs(
    specs: Sequence[TensorSpec], tensors: Sequence[AnyTensor], *, widens: bool
) -> list[AnyTensor]:
    """Return the inputs of a query with those that it may leave out.

    The data of an added input are made once its shape is checked, because the shape may be absurd.

    Args:
        specs: Inputs of the model.
        tensors: Inputs of the query; others than those of the model are kept.
        widens: True to make NaN of masked elements of numbers, and NaT of masked times.

    Raises:
        InvalidInput: a mask is for an input that takes no missing element, or inputs with masks have
            too many times as texts.
    """
    by_name = {spec.name: spec for spec in specs}
    given = {tensor.name: tensor for tensor in tensors}
    if len(given) < len(tensors):
        # Two inputs have one name, which is an error.
        return list(tensors)
    completed = dict(given)
    rows = tensors[0].shape[0] if tensors and tensors[0].shape else 0
    num_times = 0
    for name, mask in given.items():
        spec = by_name.get(name.removesuffix(NULL_MASK_SUFFIX))
        if name in by_name or not name.endswith(NULL_MASK_SUFFIX) or spec is None or not widens:
            continue
        if not has_sign(spec):
            raise InvalidInput(
                f"input {spec.name!r} takes no missing value, because its type has none; fill it, or "
                "deploy the model with an example of a type that has one, such as Int64"
            )
        completed.pop(name)
        if spec.name in given:
            num_times += num_time_texts(spec, given[spec.name])
            check_num_times(num_times)
            completed[spec.name] = _masked(spec, given[spec.name], mask)
        elif len(spec.shape) == 1:
            completed[spec.name] = _missing(spec, rows, mask)
    for spec in specs:
        if spec.name in completed:
            continue
        if spec.content is Content.NULL_MASK:
            completed[spec.name] = LazyTensor(
                spec.name, DataType.BOOL, (rows,), rows, lambda: bytes(rows)
            )
        elif (found := given.get(mask_name(spec.name))) is not None and len(spec.shape) == 1:
            completed[spec.name] = _missing(spec, rows, found)
    return list(completed.values())


def num_time_texts(spec: TensorSpec, tensor: AnyTensor) -> int:
    """Return the number of times that are texts in an input."""
    is_texts = tensor.datatype is DataType.BYTES and spec.content is Content.DATETIME
    return prod(tensor.shape) if is_texts else 0


def check_num_times(number: int) -> None:
    """Raise `InvalidInput` if a query has too many times as texts."""
    if number > MAX_TIME_TEXTS:
        raise InvalidInput(
            f"the query has more than {MAX_TIME_TEXTS} times as texts; give times of Python, numpy "
            "or pandas, or integers in nanoseconds"
        )


def converted(spec: TensorSpec, tensor: AnyTensor, blank: "Array | None" = None) -> Tensor:
    """Return an input with elements of the type of its specification.

    Args:
        spec: Input of the model.
        tensor: Numbers that keep their meaning in that type, or texts of times in ISO 8601.
        blank: True for each text that is not read.

    Raises:
        InvalidInput: an element does not fit.
    """
    data = tensor.convert() if isinstance(tensor, LazyTensor) else bytes(tensor.data)
    # Error messages need the name, which the caller may omit.
    given = Tensor(spec.name, tensor.datatype, tensor.shape, data, Content.TEXT)
    if not num_time_texts(spec, tensor):
        return cast(given, spec.datatype)
    texts = to_numpy(given)
    times: Array = np.full(texts.shape, MISSING_TIME, np.int64)
    present = np.ones(texts.shape, bool) if blank is None else np.logical_not(blank)
    times[present] = nanoseconds_of_texts(spec.name, texts[present])
    return from_numpy(spec.name, times)


def _missing(spec: TensorSpec, rows: int, mask: AnyTensor) -> LazyTensor:
    """Return an input of which all elements are missing."""

    def convert() -> bytes:
        if not all(_bools(mask)):
            raise InvalidInput(
                f"input {spec.name!r} is absent, but its mask names elements that are not missing; "
                "send both"
            )
        return from_numpy(spec.name, missing_values(spec, rows)).data

    return LazyTensor(spec.name, spec.datatype, (rows,), rows, convert)


def _masked(spec: TensorSpec, tensor: AnyTensor, mask: AnyTensor) -> LazyTensor:
    """Return an input whose masked elements say by themselves that they are missing."""

    def convert() -> bytes:
        masked = np.frombuffer(_bools(mask), bool)
        if masked.shape != tensor.shape:
            raise InvalidInput(
                f"input {spec.name!r} has shape {list(tensor.shape)} and its mask "
                f"{list(mask.shape)}; send a mask of the same shape"
            )
        elements = np.array(to_numpy(converted(spec, tensor, masked))).view(spec.dtype)
        elements[masked] = missing_values(spec, 1)[0]
        return from_numpy(spec.name, elements).data

    return LazyTensor(spec.name, spec.datatype, tensor.shape, prod(tensor.shape), convert)


def _bools(mask: AnyTensor) -> bytes:
    if mask.datatype is not DataType.BOOL:
        raise InvalidInput(f"input {mask.name!r} has datatype {mask.datatype.name}; it takes BOOL")
    return mask.convert() if isinstance(mask, LazyTensor) else bytes(mask.data)

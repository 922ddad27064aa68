"""Example inputs of a function, as arrays."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysail.artifact.local_function import takes_params
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.model_functions import Calling, Function, as_array
from skysail_common.tensors import Array, Tensor, TensorSpec, from_numpy


@dataclass(frozen=True)
class Example:
    """An example batch for a function."""

    calling: Calling
    """Calling convention of the function."""
    arrays: dict[str, Array]
    """Inputs [batch, …] by name."""
    tensors: tuple[Tensor, ...]

    @property
    def num_rows(self) -> int:
        """Number of rows of each input."""
        return self.tensors[0].shape[0]

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Specifications of inputs of these shapes, with any number of rows."""
        return tuple(
            TensorSpec(tensor.name, tensor.datatype, (-1, *tensor.shape[1:]), tensor.content)
            for tensor in self.tensors
        )

    def copied(self) -> dict[str, Array]:
        """Return copies of the inputs."""
        return {name: np.array(array) for name, array in self.arrays.items()}

    def repeated(self, num_rows: int) -> dict[str, Array]:
        """Return inputs that repeat the first row."""
        return {name: np.repeat(array[:1], num_rows, 0) for name, array in self.arrays.items()}

    def first_row(self) -> dict[str, Any]:
        """Return the first row of each input, without the batch axis."""
        return {name: array[0] for name, array in self.copied().items()}


def read_example(function: Function, example: Any, *, batch: bool = True) -> Example:
    """Return an example of the input of a function.

    Args:
        function: Function, whose parameters give the calling convention and the name of the input.
        example: An array [batch, …] (or a value that numpy converts to one), or a dictionary of
            them; without the batch axis if `batch` is false.
        batch: False for one input, which becomes a batch of one row.

    Raises:
        InvalidInput: the example has no batch axis, or values without a datatype.
    """
    if isinstance(example, Mapping):
        arrays = {str(name): _array(str(name), value, batch) for name, value in example.items()}
        if not arrays:
            raise InvalidInput(
                "cannot use the example: the dictionary is empty; give one entry per input"
            )
        calling: Calling = "keywords" if _takes_keywords(function, arrays) else "mapping"
    else:
        name = _first_parameter(function)
        calling, arrays = "array", {name: _array(name, example, batch)}
    tensors = tuple(from_numpy(name, array) for name, array in arrays.items())
    num_rows = {tensor.shape[0] for tensor in tensors}
    if len(num_rows) != 1:
        raise InvalidInput(
            f"cannot use the example: its inputs have different numbers of rows: {sorted(num_rows)}"
        )
    return Example(calling, arrays, tensors)


def _array(name: str, value: Any, batch: bool) -> Array:
    try:
        array = as_array(name, value)
        if not batch:
            array = array[np.newaxis]
    except ModelFailed as error:
        raise InvalidInput(f"cannot use the example: {error.message}{_advice(value)}") from error
    if array.ndim == 0 or array.shape[0] == 0:
        raise InvalidInput(
            f"cannot use the example of {name!r}: it needs a batch axis with at least one row; for a "
            "single input give [input], or deploy a function of one input with batch=False"
        )
    if 0 in array.shape:
        raise InvalidInput(
            f"cannot use the example of {name!r}: it has an axis of size 0: {list(array.shape)}"
        )
    return array


def _advice(value: Any) -> str:
    if hasattr(value, "columns") and hasattr(value, "dtypes"):
        return (
            "; for a data frame with columns of different types deploy a function of columns, such "
            "as `def predict(columns): return model.predict(pd.DataFrame(columns))`, with "
            "example=dict(df[:1])"
        )
    if (
        isinstance(value, list)
        and len({len(each) for each in value if hasattr(each, "__len__")}) > 1
    ):
        return "; for examples of different lengths give a list of batches as examples="
    return ""


def _takes_keywords(function: Function, names: Iterable[str]) -> bool:
    try:
        more = {"params"} if takes_params(function) else set()
        inspect.signature(function).bind(**dict.fromkeys({*names, *more}))
    except (TypeError, ValueError):
        return False
    return True


def _first_parameter(function: Function) -> str:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "input"
    if parameters and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return parameters[0].name
    return "input"

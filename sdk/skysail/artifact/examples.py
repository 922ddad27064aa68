"""Example inputs of a function, as arrays."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from skysail.artifact.function_styles import takes_params
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.frames.columns import (
    FrameBuilder,
    describe_frames,
    example_inputs,
    library_of_frame,
    make_builder,
)
from skysail_common.frames.nulls import mask_name
from skysail_common.frames.records import FrameRecord
from skysail_common.model_functions import Calling, Function, as_array
from skysail_common.tensors import Array, Content, Tensor, TensorSpec, from_numpy


@dataclass(frozen=True)
class Example:
    """An example batch for a function."""

    calling: Calling
    """Calling convention of the function."""
    arrays: dict[str, Array]
    """Inputs [batch, …] by name."""
    tensors: tuple[Tensor, ...]
    frame: FrameRecord | None = None
    """Description of the data frame of the example."""

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

    @cached_property
    def _frames(self) -> FrameBuilder | None:
        return make_builder(self.frame) if self.frame else None

    def copied(self) -> dict[str, Any]:
        """Return copies of the inputs, in the form for `call_function`."""
        return self._called_with({name: np.array(each) for name, each in self.arrays.items()})

    def repeated(self, num_rows: int) -> dict[str, Any]:
        """Return inputs that repeat the first row, in the form for `call_function`."""
        return self._called_with(
            {name: np.repeat(array[:1], num_rows, 0) for name, array in self.arrays.items()}
        )

    def first_row(self) -> dict[str, Any]:
        """Return the first row of each input, without the batch axis."""
        inputs = self.copied()
        if self._frames is not None:
            return {"frame": self._frames.first_row(inputs["frame"])}
        return {name: array[0] for name, array in inputs.items()}

    def _called_with(self, inputs: dict[str, Array]) -> dict[str, Any]:
        return {"frame": self._frames.build(inputs)} if self._frames is not None else inputs


def read_examples(
    function: Function | None, batches: Sequence[Any], *, batch: bool = True
) -> list[Example]:
    """Return examples of the input of a function.

    Args:
        function: Function, whose parameters give the calling convention and the name of the input;
            None if this machine lacks it, which takes an array named `input` or one dictionary.
        batches: Examples, each an array [batch, …] (or a value that numpy converts to one), a
            dictionary of them, or a data frame of pandas or polars; without the batch axis if `batch`
            is false.
        batch: False for one input each, which becomes a batch of one row.

    Raises:
        InvalidInput: an example has no batch axis, or values without a datatype, or only some are
            data frames.
    """
    num_frames = sum(library_of_frame(each) is not None for each in batches)
    if not num_frames:
        return [read_example(function, each, batch=batch) for each in batches]
    if not batch:
        raise InvalidInput(
            "cannot use the example: with batch=False it is one input, and a data frame is many rows; "
            "give a row as a dictionary, or deploy without batch=False"
        )
    if num_frames < len(batches):
        raise InvalidInput("cannot use the examples: some are data frames and some are not")
    if not all(len(each) for each in batches):
        raise InvalidInput("cannot use the example: the data frame has no row; give at least one")
    try:
        record = describe_frames(batches)
        return [_read_frame(record, each) for each in batches]
    except InvalidInput as error:
        raise InvalidInput(f"cannot use the example: {error.message}") from error


def _read_frame(record: FrameRecord, frame: Any) -> Example:
    arrays = example_inputs(record, frame)
    masks = {mask_name(column.name) for column in record.columns if column.has_mask}
    tensors = tuple(
        from_numpy(name, array, Content.NULL_MASK if name in masks else None)
        for name, array in arrays.items()
    )
    return Example("frame", arrays, tensors, record)


def read_example(function: Function | None, example: Any, *, batch: bool = True) -> Example:
    """Return an example of arrays; `read_examples` reads data frames too."""
    if isinstance(example, Mapping):
        arrays = {str(name): _array(str(name), value, batch) for name, value in example.items()}
        if not arrays:
            raise InvalidInput(
                "cannot use the example: the dictionary is empty; give one entry per input"
            )
        takes_keywords = function is not None and _takes_keywords(function, arrays)
        calling: Calling = "keywords" if takes_keywords else "mapping"
    else:
        name = _first_parameter(function) if function is not None else "input"
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

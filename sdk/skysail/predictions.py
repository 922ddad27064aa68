"""Conversion of responses to predictions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from skysail.query_inputs import QueryInputs
from skysail_common.frames.columns import Column, make_frame
from skysail_common.frames.nulls import mask_name
from skysail_common.frames.records import Library
from skysail_common.json_or_text import value_of
from skysail_common.rpc.messages import tensor_from_proto
from skysail_common.tensors import Array, Content, Tensor, to_numpy
from skysail_protos.v1 import query_pb2

# A frontend's error about a shape. It begins with the batch axis, which users do not give.
_SHAPES = re.compile(
    r"(unexpected shape for input '.*' for model '.*')\. "
    r"Expected \[-1(?:,(.*?))?\], got \[1(?:,(.*?))?\]"
)


@dataclass(frozen=True)
class Timings:
    """Times that a query spent in each stage, in seconds."""

    queue_s: float
    batch_wait_s: float
    compute_s: float
    total_s: float


@dataclass(frozen=True)
class Prediction:
    """The answer to a query."""

    query_id: str
    outputs: Mapping[str, Any]
    """Each output of the model by name, without the batch axis: a number, text, time or array, and
    None for a missing value. For a query of many rows, an array with an element for each row."""
    outcome: str
    """`OK`, or the reason for the default output: `DEFAULT_DEADLINE`, `DEFAULT_NO_REPLICA`,
    `DEFAULT_MODEL_ERROR` or `DEFAULT_OVERLOADED`."""
    is_default: bool
    explanation: str
    model: str
    version: str
    timings: Timings
    library: Library = field(default="pandas", repr=False, compare=False)
    """Library of the data frame that was asked about."""
    _tensors: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)

    @property
    def output(self) -> Any:
        """The output if there is one, or else a dictionary of all outputs by name."""
        return next(iter(self.outputs.values())) if len(self.outputs) == 1 else dict(self.outputs)

    def frame(self, library: Library | None = None) -> Any:
        """Return the outputs as a data frame, with a row for each row of the query.

        Args:
            library: `pandas` or `polars`; None for that of the query, or else pandas.

        Raises:
            FailedPrecondition: the library is not installed.
        """
        columns = {
            name: Column(_rows(tensor, None), nulls)
            for name, (tensor, nulls) in _masked(self._tensors).items()
        }
        return make_frame(library or self.library, columns)


def describe_shapes(message: str, taken: str, method_for_many: str = "") -> str:
    """Return an error message with the shapes of one input, without the batch axis.

    Args:
        message: Message of a frontend; returned unchanged if it is not about a shape.
        taken: Statement about the method, such as "predict takes one input".
        method_for_many: Method for many inputs, to recommend; empty for none.
    """
    found = _SHAPES.search(message)
    if found is None:
        return message
    what, expected, got = found.groups(default="")
    hint = f"; for many use {method_for_many}" if method_for_many else ""
    if got and not expected:
        hint = f"; give a single value, not a list{hint}"
    return f"{what}: {taken} of shape [{expected}], got [{got}]{hint}"


def prediction_from_proto(
    response: query_pb2.PredictResponse, inputs: QueryInputs | None = None
) -> Prediction:
    """Return the prediction in a response.

    Args:
        response: The response.
        inputs: Inputs of the query; None for one input.
    """
    timings = response.timings
    tensors = tuple(map(tensor_from_proto, response.outputs))
    has_rows = inputs is not None and inputs.num_rows is not None
    read = _rows if has_rows else _value
    return Prediction(
        query_id=response.query_id,
        outputs={name: read(*tensor) for name, tensor in _masked(tensors).items()},
        outcome=query_pb2.Outcome.Name(response.outcome).removeprefix("OUTCOME_"),
        is_default=response.is_default,
        explanation=response.explanation,
        model=response.model,
        version=response.version,
        timings=Timings(
            *(
                each.seconds + each.nanos / 1e9
                for each in (timings.queue, timings.batch_wait, timings.compute, timings.total)
            )
        ),
        library=inputs.library if inputs else "pandas",
        _tensors=tensors,
    )


def _masked(tensors: Sequence[Tensor]) -> dict[str, tuple[Tensor, Array | None]]:
    """Return the outputs by name, each with its mask if there is one."""
    masks = {each.name: each for each in tensors if each.content is Content.NULL_MASK}
    return {
        each.name: (each, to_numpy(masks[mask_name(each.name)]))
        if mask_name(each.name) in masks
        else (each, None)
        for each in tensors
        if each.name not in masks
    }


def _value(tensor: Tensor, nulls: Array | None) -> Any:
    """Return the first element of an output."""
    row = to_numpy(tensor)[0]
    if nulls is not None and nulls[0]:
        return None
    if isinstance(row, np.ndarray):
        return row
    if tensor.content is Content.JSON_OR_TEXT:
        return value_of(row)
    # The times of Python have no nanoseconds.
    is_plain = isinstance(row, np.generic) and row.dtype.kind not in "Mm"
    return row.item() if is_plain else row


def _rows(tensor: Tensor, nulls: Array | None) -> Array:
    """Return the elements of an output with its batch axis."""
    rows = to_numpy(tensor)
    if tensor.content is Content.JSON_OR_TEXT:
        values = [value_of(each) for each in rows.ravel().tolist()]
        rows = np.empty(len(values), object)
        rows[:] = values
        rows = rows.reshape(tensor.shape)
    if nulls is not None and nulls.any():
        objects: npt.NDArray[np.object_] = rows.astype(object)
        objects[nulls] = None
        return objects
    return rows

"""Conversion of inputs to tensors, and of responses to predictions."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.json_or_text import value_of
from skysail_common.model_functions import as_array
from skysail_common.rpc.messages import tensor_from_proto, tensor_to_proto
from skysail_common.tensors import Array, Content, Tensor, from_numpy, to_numpy
from skysail_protos.v1 import query_pb2, tensors_pb2

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
    """Each output of the model by name, without the batch axis: a number, text or array."""
    outcome: str
    """`OK`, or the reason for the default output: `DEFAULT_DEADLINE`, `DEFAULT_NO_REPLICA`,
    `DEFAULT_MODEL_ERROR` or `DEFAULT_OVERLOADED`."""
    is_default: bool
    explanation: str
    model: str
    version: str
    timings: Timings

    @property
    def output(self) -> Any:
        """The output if there is one, or else a dictionary of all outputs by name."""
        return next(iter(self.outputs.values())) if len(self.outputs) == 1 else dict(self.outputs)


def encode_input(value: Any) -> list[tensors_pb2.Tensor]:
    """Return one input as tensors with one row.

    Args:
        value: A number, text, bytes, list or array; or a dictionary of them by name.

    Raises:
        InvalidInput: the value is not convertible to an array.
    """
    parts = value if isinstance(value, Mapping) else {"": value}
    for name in parts:
        if not isinstance(name, str):
            raise InvalidInput(
                f"the input is a dictionary, whose keys must be names of inputs, got {name!r}"
            )
    return [tensor_to_proto(_row(name, part)) for name, part in parts.items()]


def split_rows(inputs: Any) -> Iterable[Any]:
    """Return an iterable of the inputs, which for a data frame are its rows.

    A data frame with one numeric type gives arrays, as an example of it would; any other gives
    dictionaries by column.

    Raises:
        InvalidInput: the value is a single input, or is not iterable.
    """
    if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):
        matrix: Array = inputs.to_numpy()
        return matrix if matrix.dtype.kind in "biuf" else cast(Any, inputs).to_dict("records")
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise InvalidInput(
            f"inputs must be a list of inputs, got a {type(inputs).__name__}; for one input use "
            "predict"
        )
    return inputs


def _row(name: str, value: Any) -> Tensor:
    # Messages call an unnamed input `input`.
    shown = name or "input"
    if isinstance(value, (str, bytes)):
        rows: Array = np.empty(1, dtype=object)
        rows[0] = value
    else:
        try:
            rows = as_array(shown, value, takes_missing=True)[np.newaxis, ...]
        except ModelFailed as error:
            raise InvalidInput(
                f"the input is not usable: {error.message}{_advice(value)}"
            ) from error
    return replace(from_numpy(shown, rows), name=name)


def _advice(value: Any) -> str:
    if hasattr(value, "columns") and hasattr(value, "dtypes"):
        return (
            "; for a data frame with columns of different types deploy a function of columns, and give "
            "one row as dict(df.iloc[0]) or many rows with predict_batch(df)"
        )
    return ""


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


def prediction_from_proto(response: query_pb2.PredictResponse) -> Prediction:
    """Return the prediction in a response."""
    timings = response.timings
    return Prediction(
        query_id=response.query_id,
        outputs={tensor.name: _value(tensor_from_proto(tensor)) for tensor in response.outputs},
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
    )


def _value(tensor: Tensor) -> Any:
    row = to_numpy(tensor)[0]
    if isinstance(row, np.ndarray):
        return row
    if tensor.content is Content.JSON_OR_TEXT:
        return value_of(row)
    return row.item() if isinstance(row, np.generic) else row

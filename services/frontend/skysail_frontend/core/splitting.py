"""Large queries: one that exceeds a batch is split into parts, and their answers are joined."""

from collections.abc import Iterator, Sequence
from math import prod

from skysail_common.errors import ModelFailed
from skysail_common.tensors import Data, DataType, TensorSpec
from skysail_frontend.core.query import Outcome, Prediction, Query

_LENGTH_BYTES = 4


def split_query(query: Query, max_rows: int) -> list[Query]:
    """Split a query into parts of at most `max_rows` rows and return the parts.

    Their answers are joined. The joint answer settles `query`, which decides on a default output.
    """
    assert query.version is not None
    joint = _JointAnswer(query)
    specs = query.version.signature.packed_inputs
    dims = iter(query.variable_dims)
    slices = [
        list(_slice(spec, data, query.rows, max_rows, [next(dims) for _ in spec.variable_axes]))
        for spec, data in zip(specs, query.inputs, strict=True)
    ]
    parts = []
    for index, inputs in enumerate(zip(*slices, strict=True)):
        rows = min(max_rows, query.rows - index * max_rows)
        part = Query(
            query.query_id,
            query.application,
            query.version,
            inputs,
            rows,
            query.variable_dims,
            query.arrival,
            query.deadline,
            joint.settle,
            query.priority,
            query.params,
        )
        part.is_part = True
        parts.append(part)
    joint.parts = parts
    query.parts = parts
    query.inputs, query.input_bytes = (), 0
    return parts


def _slice(
    spec: TensorSpec, data: Data, rows: int, max_rows: int, dims: Sequence[int]
) -> Iterator[Data]:
    if spec.datatype is DataType.BYTES:
        yield from _slice_bytes(data, rows, max_rows, prod(spec.shape[1:]) if not dims else None)
        return
    row_bytes = len(data) // rows
    for first in range(0, rows, max_rows):
        yield data[first * row_bytes : (first + max_rows) * row_bytes]


def _slice_bytes(data: Data, rows: int, max_rows: int, elements: int | None) -> Iterator[Data]:
    """Yield parts of BYTES data, in which each element follows its length."""
    starts = [0]
    while starts[-1] < len(data):
        begin = starts[-1]
        size = int.from_bytes(data[begin : begin + _LENGTH_BYTES], "little")
        starts.append(begin + _LENGTH_BYTES + size)
    per_row = elements if elements is not None else (len(starts) - 1) // rows
    for first in range(0, rows, max_rows):
        last = min(rows, first + max_rows)
        yield data[starts[first * per_row] : starts[last * per_row]]


class _JointAnswer:
    """The answers to the parts of one query, joined once all are there."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._answers: dict[Query, Prediction] = {}
        self.parts: list[Query] = []

    def settle(self, part: Query, prediction: Prediction) -> None:
        """Record the answer to a part; the last answer or the first error settles the query."""
        on_joined, now = self._query.on_joined, part.arrival + prediction.total_s
        assert on_joined is not None
        if prediction.error is not None:
            on_joined(self._query, prediction, now)
            return
        self._answers[part] = prediction
        if len(self._answers) < len(self.parts):
            return
        answers = [self._answers[each] for each in self.parts]
        shapes = [
            _concatenated_shape(shapes)
            for shapes in zip(*[each.shapes for each in answers], strict=True)
        ]
        if None in shapes:
            error = ModelFailed("the parts of a large query have outputs of different shapes")
            on_joined(self._query, Prediction(Outcome.DEFAULT_MODEL_ERROR, error=error), now)
            return
        data = [b"".join(parts) for parts in zip(*[each.outputs for each in answers], strict=True)]
        joined = Prediction(Outcome.OK, data, [shape for shape in shapes if shape is not None])
        joined.queue_s = max(each.queue_s for each in answers)
        joined.batch_wait_s = max(each.batch_wait_s for each in answers)
        joined.compute_s = sum(each.compute_s for each in answers)
        on_joined(self._query, joined, now)


def _concatenated_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    first = shapes[0]
    if any(shape[1:] != first[1:] for shape in shapes):
        return None
    return (sum(shape[0] for shape in shapes), *first[1:])

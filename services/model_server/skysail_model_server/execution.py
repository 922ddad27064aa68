"""Answers one batch: decodes it, calls the user's function, and isolates what fails.

Runs on the main thread, so that user code finds there what it may expect; the I/O thread never
waits for it.
"""

import logging
import traceback
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from time import perf_counter_ns

import numpy as np
from skysail_common.errors import InvalidInput, ModelFailed, SkysailError, Status
from skysail_common.tensors import (
    Array,
    DataType,
    Tensor,
    TensorSpec,
    join_bytes_elements,
    split_bytes_elements,
    to_numpy,
)
from skysail_protos.v1 import model_server_pb2

from skysail_model_server.model import Model

log = logging.getLogger(__name__)

_MAX_MESSAGE_LENGTH = 2_000


class Execution:
    """Runs the batches of one model, one at a time."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, batch: model_server_pb2.Batch) -> model_server_pb2.BatchResult:
        """Return the result of a batch; never raises for what user code does.

        A batch whose call fails is halved until the queries that make it fail stand alone: they
        fail, the others are answered.
        """
        result = model_server_pb2.BatchResult(id=batch.id)
        begin = perf_counter_ns()
        try:
            inputs = BatchInputs(self._model.signature.inputs, batch, self._model.takes_list)
        except InvalidInput as error:
            for index in range(len(batch.rows)):
                result.errors.add(index=index, code=error.status, message=error.message)
            return result
        answered: list[tuple[Sequence[int], list[Array]]] = []
        for first, last in inputs.uniform_ranges():
            self._solve(inputs, first, last, answered, result)
        result.compute_us = min((perf_counter_ns() - begin) // 1000, 2**32 - 1)
        _encode(self._model.signature.outputs, answered, result)
        return result

    def _solve(
        self,
        inputs: "BatchInputs",
        first: int,
        last: int,
        answered: list[tuple[Sequence[int], list[Array]]],
        result: model_server_pb2.BatchResult,
    ) -> None:
        rows = inputs.rows[first:last]
        try:
            outputs = self._model.predict(inputs.select(first, last), sum(rows))
        except (Exception, SystemExit) as error:
            if last - first > 1:
                middle = (first + last) // 2
                self._solve(inputs, first, middle, answered, result)
                self._solve(inputs, middle, last, answered, result)
                return
            code, message = _blame(error)
            log.warning("query failed", extra={"error": message})
            result.errors.add(index=first, code=code, message=message)
        else:
            answered.append((rows, outputs))


def _blame(error: BaseException) -> tuple[Status, str]:
    if isinstance(error, SkysailError):
        return error.status, error.message
    message = f"{type(error).__name__}: {error}"[:_MAX_MESSAGE_LENGTH]
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        # The function and line help; the path of the file is the server's own business.
        message += f" (in {frames[-1].name}, line {frames[-1].lineno})"
    return ModelFailed.status, message


class BatchInputs:
    """The inputs of a batch, from which those of consecutive queries can be selected."""

    def __init__(
        self, specs: Sequence[TensorSpec], batch: model_server_pb2.Batch, as_lists: bool
    ) -> None:
        """Decodes the batch.

        Raises:
            InvalidInput: its data do not fit the signature.
        """
        self.rows: list[int] = list(batch.rows)
        self._as_lists = as_lists
        self._starts = [0, *accumulate(self.rows)]
        self._shapes = _shapes_of_queries(specs, batch)
        if len(batch.inputs) != len(specs):
            raise InvalidInput(f"the batch has {len(batch.inputs)} inputs, not {len(specs)}")
        self._joined: list[Array | list[Array]] = [
            self._decode(spec, index, data)
            for index, (spec, data) in enumerate(zip(specs, batch.inputs, strict=True))
        ]

    def _decode(self, spec: TensorSpec, index: int, data: bytes) -> "Array | list[Array]":
        total = self._starts[-1]
        if spec.row_bytes is not None:
            if len(data) != total * spec.row_bytes:
                raise InvalidInput(f"input {spec.name!r} has {len(data)} bytes for {total} rows")
            # A copy, because functions may write to their inputs.
            return _array(spec, (total, *spec.shape[1:]), bytearray(data))
        if not spec.variable_axes:
            shape = (total, *spec.shape[1:])
            return to_numpy(Tensor(spec.name, spec.datatype, shape, data, spec.content))
        return self._decode_each(spec, index, data)

    def _decode_each(self, spec: TensorSpec, index: int, data: bytes) -> list[Array]:
        shapes = [
            (rows, *shape[index]) for rows, shape in zip(self.rows, self._shapes, strict=True)
        ]
        sizes = [int(np.prod(shape)) for shape in shapes]
        if spec.datatype is DataType.BYTES:
            elements = split_bytes_elements(data, sum(sizes))
            parts = [join_bytes_elements(elements[begin:end]) for begin, end in _ranges(sizes)]
        else:
            lengths = [size * spec.datatype.element_bytes for size in sizes]
            if sum(lengths) != len(data):
                raise InvalidInput(f"input {spec.name!r} has {len(data)} bytes for its shapes")
            parts = [data[begin:end] for begin, end in _ranges(lengths)]
        return [
            _array(spec, shape, bytearray(part)) for shape, part in zip(shapes, parts, strict=True)
        ]

    def uniform_ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of consecutive queries that one call can take together."""
        count = len(self.rows)
        if self._as_lists or not any(self._shapes):
            return [(0, count)] if count else []
        ranges: list[tuple[int, int]] = []
        first = 0
        for index in range(1, count + 1):
            if index == count or self._shapes[index] != self._shapes[first]:
                ranges.append((first, index))
                first = index
        return ranges

    def select(self, first: int, last: int) -> list[object]:
        """Return the inputs of the queries from `first` to before `last`."""
        begin, end = self._starts[first], self._starts[last]
        selected: list[object] = []
        for joined in self._joined:
            if not isinstance(joined, list):
                selected.append(joined[begin:end])
            elif self._as_lists:
                selected.append([row for array in joined[first:last] for row in array])
            else:
                selected.append(np.concatenate(joined[first:last]))
        return selected


def _shapes_of_queries(
    specs: Sequence[TensorSpec], batch: model_server_pb2.Batch
) -> list[tuple[tuple[int, ...], ...]]:
    """Return, for each query and each input, the sizes of all axes but the first."""
    width = sum(len(spec.variable_axes) for spec in specs)
    if not width:
        return [()] * len(batch.rows)
    if len(batch.variable_dims) != width * len(batch.rows):
        raise InvalidInput("the batch does not give the sizes of every dimension that varies")
    dims = iter(batch.variable_dims)
    return [
        tuple(
            tuple(next(dims) if size == -1 else size for size in spec.shape[1:]) for spec in specs
        )
        for _ in batch.rows
    ]


def _array(spec: TensorSpec, shape: tuple[int, ...], data: bytearray) -> Array:
    if spec.datatype in (DataType.BYTES, DataType.BF16):
        return to_numpy(Tensor(spec.name, spec.datatype, shape, bytes(data), spec.content))
    return np.frombuffer(data, spec.datatype.dtype).reshape(shape)


def _ranges(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of consecutive parts of these sizes."""
    return pairwise([0, *accumulate(sizes)])


def _encode(
    specs: Sequence[TensorSpec],
    answered: Sequence[tuple[Sequence[int], list[Array]]],
    result: model_server_pb2.BatchResult,
) -> None:
    """Put the outputs of all answered queries into the result, joined."""
    parts: list[list[bytes]] = [[] for _ in specs]
    for rows, outputs in answered:
        bytes_parts: dict[int, list[bytes]] = {}
        for index, (spec, array) in enumerate(zip(specs, outputs, strict=True)):
            if spec.datatype is DataType.BYTES:
                bytes_parts[index] = [
                    join_bytes_elements(_as_bytes(array[begin:end])) for begin, end in _ranges(rows)
                ]
                parts[index].extend(bytes_parts[index])
            else:
                parts[index].append(_to_bytes(spec, array))
        for query in range(len(rows)):
            for index, spec in enumerate(specs):
                result.variable_dims.extend(
                    outputs[index].shape[axis] for axis in spec.variable_axes
                )
                if index in bytes_parts:
                    result.bytes_sizes.append(len(bytes_parts[index][query]))
    result.outputs.extend(b"".join(part) for part in parts)


def _as_bytes(array: Array) -> list[bytes]:
    return [
        element.encode() if isinstance(element, str) else element
        for element in array.ravel().tolist()
    ]


def _to_bytes(spec: TensorSpec, array: Array) -> bytes:
    if spec.datatype is DataType.BF16:
        # BF16 is the upper half of FP32; half of the lower one is added to round.
        bits = np.ascontiguousarray(array, "<f4").view("<u4") + np.uint32(0x8000)
        return bytes(np.right_shift(bits, 16).astype("<u2").tobytes())
    return np.ascontiguousarray(array, spec.datatype.dtype).tobytes()

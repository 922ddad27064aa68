"""Conversion of the queries of a batch to arrays, and of their outputs to a result."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from math import prod

import numpy as np

from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.tensors import (
    Array,
    Content,
    DataType,
    Tensor,
    TensorSpec,
    join_bytes_elements,
    to_numpy,
)
from skysail_protos.v1 import model_server_pb2


class BatchInputs:
    """The inputs of a batch; `select` returns those of consecutive queries."""

    def __init__(
        self, specs: Sequence[TensorSpec], batch: model_server_pb2.Batch, as_lists: bool
    ) -> None:
        """Decode the batch.

        Raises:
            InvalidInput: its data do not fit the signature.
        """
        self.refused: dict[int, InvalidInput] = {}
        """Errors of invalid queries, which the function never sees, by index."""
        self.rows: list[int] = list(batch.rows)
        self._specs = specs
        self._as_lists = as_lists
        self._starts = [0, *accumulate(self.rows)]
        self._varies = any(spec.variable_axes for spec in specs)
        self._shapes = _shapes_of_queries(specs, batch) if self._varies else ()
        self._params: Sequence[str] = batch.params
        if self._params and len(self._params) != len(self.rows):
            raise InvalidInput(f"the batch has {len(self._params)} params, not {len(self.rows)}")
        if len(batch.inputs) != len(specs):
            raise InvalidInput(f"the batch has {len(batch.inputs)} inputs, not {len(specs)}")
        self._joined: list[Array | list[Array]] = [
            self._as_texts(spec, self._decode(spec, index, data))
            for index, (spec, data) in enumerate(zip(specs, batch.inputs, strict=True))
        ]

    def _decode(self, spec: TensorSpec, index: int, data: bytes) -> "Array | list[Array]":
        if not spec.variable_axes:
            num_rows = self._starts[-1]
            shape = (num_rows, *spec.shape[1:])
            if (
                spec.row_bytes is not None
                and spec.datatype is not DataType.BF16
                and len(data) == num_rows * spec.row_bytes
            ):
                # The most frequent case skips the checks and conversions of the others.
                return np.frombuffer(data, spec.dtype).reshape(shape)
            return to_numpy(Tensor(spec.name, spec.datatype, shape, data))
        shapes = [
            (rows, *shape[index]) for rows, shape in zip(self.rows, self._shapes, strict=True)
        ]
        sizes = [prod(shape) for shape in shapes]
        elements = to_numpy(Tensor(spec.name, spec.datatype, (sum(sizes),), data))
        if spec.content.dtype:
            elements = elements.view(spec.dtype)
        parts = zip(shapes, _ranges(sizes), strict=True)
        return [elements[begin:end].reshape(shape) for shape, (begin, end) in parts]

    def uniform_ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of consecutive queries that one call can answer together."""
        count = len(self.rows)
        has_one_shape = self._as_lists or not self._varies
        if has_one_shape and not self.refused and not self._params:
            return [(0, count)] if count else []
        ranges: list[tuple[int, int]] = []
        for index in range(count):
            if index in self.refused:
                continue
            first, last = ranges[-1] if ranges else (0, -1)
            fits = has_one_shape or self._shapes[index] == self._shapes[first]
            if last == index and fits and self.params(index) == self.params(first):
                ranges[-1] = (first, index + 1)
            else:
                ranges.append((index, index + 1))
        return ranges

    def params(self, query: int) -> str:
        """Return the parameters of a query as a JSON object; empty for none."""
        return self._params[query] if self._params else ""

    def select(self, first: int, last: int) -> list[object]:
        """Return the inputs of the queries from `first` to before `last`.

        The arrays are copies, because a function may write to them and a query may run again.
        """
        begin, end = self._starts[first], self._starts[last]
        selected: list[object] = []
        for joined in self._joined:
            if not isinstance(joined, list):
                selected.append(joined[begin:end].copy())
            elif self._as_lists:
                selected.append([row for array in joined[first:last] for row in array.copy()])
            else:
                selected.append(np.concatenate(joined[first:last]))
        return selected

    def select_row(self, query: int, row: int) -> list[object]:
        """Return the inputs of one row of a query, without the batch axis.

        Arrays are copies, as those of `select`.
        """
        begin = self._starts[query]
        values = (
            joined[query][row] if isinstance(joined, list) else joined[begin + row]
            for joined in self._joined
        )
        return [value.copy() if isinstance(value, np.ndarray) else value for value in values]

    def _as_texts(self, spec: TensorSpec, joined: "Array | list[Array]") -> "Array | list[Array]":
        """Return an input with its texts as `str`; refuse queries whose texts are not UTF-8."""
        if spec.datatype is not DataType.BYTES or spec.content is Content.BINARY:
            return joined
        if isinstance(joined, list):
            return [self._decoded(spec, index, array) for index, array in enumerate(joined)]
        with suppress(UnicodeDecodeError):
            return _decoded(joined)
        queries = enumerate(pairwise(self._starts))
        return np.concatenate(
            [self._decoded(spec, index, joined[begin:end]) for index, (begin, end) in queries]
        )

    def _decoded(self, spec: TensorSpec, index: int, array: Array) -> Array:
        try:
            return _decoded(array)
        except UnicodeDecodeError as error:
            self.refused[index] = InvalidInput(
                f"input {spec.name!r} is not UTF-8 text: {error.reason} at byte {error.start}; send "
                "UTF-8, or deploy the model with input_type='bytes' or an example of bytes"
            )
            return array


def _decoded(array: Array) -> Array:
    texts = np.empty(array.size, dtype=object)
    texts[:] = [element.decode() for element in array.ravel().tolist()]
    return texts.reshape(array.shape)


def _shapes_of_queries(
    specs: Sequence[TensorSpec], batch: model_server_pb2.Batch
) -> Sequence[tuple[tuple[int, ...], ...]]:
    """Return, for each query and each input, the sizes of all axes except the first."""
    width = sum(len(spec.variable_axes) for spec in specs)
    if len(batch.variable_dims) != width * len(batch.rows):
        raise InvalidInput("the batch lacks the size of a variable dimension")
    dims = iter(batch.variable_dims)
    return [
        tuple(
            tuple(next(dims) if size == -1 else size for size in spec.shape[1:]) for spec in specs
        )
        for _ in batch.rows
    ]


def _ranges(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of consecutive parts of these sizes."""
    return pairwise([0, *accumulate(sizes)])


class BatchOutputs:
    """The joined outputs of answered queries."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = specs
        self._is_fixed = all(spec.row_bytes is not None for spec in specs)
        self._parts: list[list[bytes]] = [[] for _ in specs]
        self._variable_dims: list[int] = []
        self._bytes_sizes: list[int] = []

    def add(self, rows: Sequence[int], outputs: Sequence[Array]) -> None:
        """Add the outputs of the next queries, all or none.

        Args:
            rows: Rows of each query.
            outputs: Outputs of all these queries.

        Raises:
            UnicodeEncodeError: a text cannot be encoded as UTF-8.
            ModelFailed: the bytes of a text output are not UTF-8.
        """
        specs = self._specs
        encoded = [_encoded(spec, array, rows) for spec, array in zip(specs, outputs, strict=True)]
        if self._is_fixed:
            for parts, new in zip(self._parts, encoded, strict=True):
                parts += new
            return
        dims = [
            array.shape[axis]
            for spec, array in zip(specs, outputs, strict=True)
            for axis in spec.variable_axes
        ]
        for parts, new in zip(self._parts, encoded, strict=True):
            parts.extend(new)
        texts = [
            new for spec, new in zip(specs, encoded, strict=True) if spec.datatype is DataType.BYTES
        ]
        for query in range(len(rows)):
            self._variable_dims.extend(dims)
            self._bytes_sizes.extend(len(new[query]) for new in texts)

    def write_to(self, result: model_server_pb2.BatchResult) -> None:
        """Write all added outputs to the result."""
        result.outputs.extend([b"".join(parts) for parts in self._parts])
        if not self._is_fixed:
            result.variable_dims.extend(self._variable_dims)
            result.bytes_sizes.extend(self._bytes_sizes)


def _encoded(spec: TensorSpec, array: Array, rows: Sequence[int]) -> list[bytes]:
    """Return the data of an output: for BYTES one part for each query, else one part for all."""
    if spec.datatype is DataType.BYTES:
        return [
            join_bytes_elements(_as_bytes(spec, array[begin:end])) for begin, end in _ranges(rows)
        ]
    if spec.datatype is DataType.BF16:
        # BF16 is the upper half of FP32, and the output is rounded to it.
        return [np.ascontiguousarray(array, "<f4").view("<u2")[..., 1::2].tobytes()]
    return [np.ascontiguousarray(array, spec.datatype.dtype).tobytes()]


def _as_bytes(spec: TensorSpec, array: Array) -> list[bytes]:
    given = array.ravel().tolist()
    elements = [element.encode() if isinstance(element, str) else element for element in given]
    if spec.content is not Content.BINARY and bytes in map(type, given):
        _check_text(spec, elements)
    return elements


def _check_text(spec: TensorSpec, elements: Sequence[bytes]) -> None:
    try:
        for element in elements:
            element.decode()
    except UnicodeDecodeError as error:
        raise ModelFailed(
            f"the function returned bytes that are not UTF-8 in output {spec.name!r} "
            f"({error.reason} at byte {error.start}); its signature says texts, so return str"
        ) from error

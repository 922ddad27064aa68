"""Batches and their results as protobuf messages."""

import logging
from collections.abc import Iterator, Sequence

from skysail_common.errors import ModelFailed, SkysailError, error_of
from skysail_common.rpc.varints import varint
from skysail_common.tensors import Data, DataType
from skysail_frontend.core.batch import Batch, QueryError, QueryOutputs
from skysail_frontend.core.version_dispatcher import VersionDispatcher
from skysail_protos.v1 import model_server_pb2 as pb

log = logging.getLogger(__name__)

_MAX_US = 2**32 - 1
_INPUTS = b"\x1a"
"""Field number and wire type of `inputs` in a Batch."""


def encode_batch(batch: Batch) -> bytes:
    """Return a serialized Batch; its data are copied once."""
    queries = batch.queries
    message = pb.Batch(id=batch.batch_id)
    # Protobuf allows fields in any order: the other fields are serialized when they are complete.
    parts: list[Data] = [b""]
    if len(queries) == 1:
        message.rows.append(queries[0].rows)
        for data in queries[0].inputs:
            parts += (_INPUTS, varint(len(data)), data)
        message.variable_dims.extend(queries[0].variable_dims)
    else:
        message.rows.extend([query.rows for query in queries])
        for inputs in zip(*[query.inputs for query in queries], strict=True):
            parts += (_INPUTS, varint(sum(map(len, inputs))), *inputs)
        for query in queries:
            if query.variable_dims:
                message.variable_dims.extend(query.variable_dims)
    version = queries[0].version
    if version is not None and version.takes_params and any(query.params for query in queries):
        message.params.extend([query.params for query in queries])
    message.expected_us = min(_MAX_US, int(batch.expected_s * 1e6))
    parts[0] = message.SerializeToString()
    return b"".join(parts)


def decode_result(
    version: VersionDispatcher, batch: Batch, result: pb.BatchResult
) -> Sequence[QueryOutputs | QueryError]:
    """Return the answer to each query of a batch; a result that does not fit fails all of them."""
    try:
        if version.served.signature.has_fixed_outputs and not result.errors:
            return _split_fixed(version, batch, result)
        return _split_variable(version, batch, result)
    except (IndexError, ValueError) as error:
        text = f"model '{version.served.name}' sent a result that does not fit its signature"
        log.error("result does not fit the signature", extra={"error": str(error)})
        return [QueryError(ModelFailed(text))] * len(batch.queries)


def _split_fixed(
    version: VersionDispatcher, batch: Batch, result: pb.BatchResult
) -> Sequence[QueryOutputs]:
    """Return the outputs of each query, whose sizes follow from its rows.

    Raises:
        ValueError: the result has more or less data.
    """
    specs, joined = version.served.signature.outputs, result.outputs
    row_bytes = [spec.row_bytes or 0 for spec in specs]
    expected = [batch.rows * size for size in row_bytes]
    if list(map(len, joined)) != expected or result.variable_dims or result.bytes_sizes:
        raise ValueError(f"{[len(part) for part in joined]} bytes, not {expected}")
    tails = [spec.shape[1:] for spec in specs]
    answers = []
    first = 0
    if len(specs) == 1:
        # Most models have one output, for which no inner loop is needed.
        (part,), (size,), (tail,) = joined, row_bytes, tails
        for query in batch.queries:
            last = first + query.rows
            answers.append(QueryOutputs([part[first * size : last * size]], [(query.rows, *tail)]))
            first = last
        return answers
    for query in batch.queries:
        last = first + query.rows
        data = [
            part[first * size : last * size] for part, size in zip(joined, row_bytes, strict=True)
        ]
        answers.append(QueryOutputs(data, [(query.rows, *tail) for tail in tails]))
        first = last
    return answers


def _split_variable(
    version: VersionDispatcher, batch: Batch, result: pb.BatchResult
) -> Sequence[QueryOutputs | QueryError]:
    """Return the outputs or the error of each query.

    Raises:
        IndexError, ValueError: the result has more or less data or sizes.
    """
    specs = version.served.signature.outputs
    failed: dict[int, SkysailError] = {error.index: _query_error(error) for error in result.errors}
    joined = list(result.outputs)
    ends = [0] * len(specs)
    dims, sizes = iter(result.variable_dims), iter(result.bytes_sizes)
    if len(joined) != len(specs) and len(failed) < len(batch.queries):
        raise ValueError(f"{len(joined)} outputs, not {len(specs)}")
    answers: list[QueryOutputs | QueryError] = []
    for index, query in enumerate(batch.queries):
        if index in failed:
            answers.append(QueryError(failed[index]))
            continue
        data: list[bytes] = []
        shapes: list[tuple[int, ...]] = []
        for output, spec in enumerate(specs):
            shape = (query.rows, *spec.shape[1:])
            if spec.variable_axes:
                shape = tuple(
                    size if size != -1 else _next_size(dims, "sizes of dimensions")
                    for size in shape
                )
            if spec.row_bytes is not None:
                size = query.rows * spec.row_bytes
            elif spec.datatype is DataType.BYTES:
                size = _next_size(sizes, "sizes of texts")
            else:
                size = spec.datatype.element_bytes
                for dimension in shape:
                    size *= dimension
            begin = ends[output]
            ends[output] = begin + size
            data.append(joined[output][begin : begin + size])
            shapes.append(shape)
        answers.append(QueryOutputs(data, shapes))
    if any(end != len(part) for end, part in zip(ends, joined, strict=bool(joined))):
        raise ValueError(f"{[len(part) for part in joined]} bytes, not {ends}")
    if next(dims, None) is not None or next(sizes, None) is not None:
        raise ValueError("too many sizes of dimensions or of texts")
    return answers


def _query_error(error: pb.BatchError) -> SkysailError:
    if error.code == ModelFailed.status:
        return ModelFailed(error.message)
    return error_of("", error.code, error.message)


def _next_size(values: Iterator[int], what: str) -> int:
    value = next(values, None)
    if value is None or value < 0:
        raise ValueError(f"too few {what}, or one below 0")
    return int(value)

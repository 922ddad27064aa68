"""Batches of queries and their results, for the tests of the execution."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skysail_common.call_style import CallStyle
from skysail_common.clock import NEVER
from skysail_common.model_functions import Calling
from skysail_common.tensors import (
    Content,
    DataType,
    Signature,
    TensorSpec,
    from_numpy,
    split_bytes_elements,
)
from skysail_model_server.call_watchdog import CallWatchdog
from skysail_model_server.execution import Execution
from skysail_model_server.model import Model
from skysail_protos.v1 import model_server_pb2
from skysail_testing.clock import FakeClock

X = TensorSpec("x", DataType.FP64, (-1, 2))
Y = TensorSpec("y", DataType.INT32, (-1,))
TEXT = TensorSpec("text", DataType.BYTES, (-1,), Content.TEXT)
OUT = TensorSpec("output", DataType.FP64, (-1, 2))
POISON = 666.0


def texts(*values: str | bytes) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def make_batch(
    signature: Signature, queries: Sequence[Sequence[np.ndarray]]
) -> model_server_pb2.Batch:
    """Join queries to a batch, as a frontend does; each query is a list of input arrays."""
    batch = model_server_pb2.Batch(id=7, rows=[len(query[0]) for query in queries])
    for index, spec in enumerate(signature.inputs):
        parts = []
        for query in queries:
            array = query[index]
            if spec.datatype is not DataType.BYTES:
                array = array.astype(spec.datatype.dtype)
            parts.append(from_numpy(spec.name, array).data)
        batch.inputs.append(b"".join(parts))
    for query in queries:
        for spec, array in zip(signature.inputs, query, strict=True):
            batch.variable_dims.extend(array.shape[axis] for axis in spec.variable_axes)
    return batch


def answers(
    signature: Signature, batch: model_server_pb2.Batch, result: model_server_pb2.BatchResult
) -> list[Any]:
    """Split a result into the outputs or the error of each query; fail if bytes are left."""
    errors = {error.index: error for error in result.errors}
    assert len(errors) == len(result.errors), "no query has two errors"
    data = [memoryview(each) for each in result.outputs]
    dims, sizes = iter(result.variable_dims), iter(result.bytes_sizes)
    found: list[Any] = []
    for index, rows in enumerate(batch.rows):
        if index in errors:
            found.append(errors[index])
            continue
        outputs = []
        for number, spec in enumerate(signature.outputs):
            shape = (rows, *(next(dims) if size == -1 else size for size in spec.shape[1:]))
            count = int(np.prod(shape))
            is_bytes = spec.datatype is DataType.BYTES
            length = next(sizes) if is_bytes else count * spec.datatype.element_bytes
            part, data[number] = bytes(data[number][:length]), data[number][length:]
            if is_bytes:
                outputs.append(texts(*split_bytes_elements(part, count)).reshape(shape))
            elif spec.datatype is DataType.BF16:
                outputs.append(np.frombuffer(part, "<u2").reshape(shape))
            else:
                outputs.append(np.frombuffer(part, spec.datatype.dtype).reshape(shape))
        found.append(outputs[0] if len(outputs) == 1 else outputs)
    if len(result.outputs):
        assert all(not each for each in data), "outputs have more than the queries"
    assert next(dims, None) is None
    assert next(sizes, None) is None
    return found


def execution(model: Model) -> Execution:
    return Execution(model, CallWatchdog(NEVER, FakeClock()))


def run(
    function,
    queries,
    inputs: Sequence[TensorSpec] = (X,),
    outputs: Sequence[TensorSpec] = (OUT,),
    calling: Calling = "array",
    **style: Any,
) -> list[Any]:
    signature = Signature(tuple(inputs), tuple(outputs))
    batch = make_batch(
        signature, [[query] if isinstance(query, np.ndarray) else query for query in queries]
    )
    model = Model(function, CallStyle(calling, **style), signature)
    result = execution(model).run(batch)
    model.close()
    assert result.id == 7
    return answers(signature, batch, result)


def query(*values: float) -> np.ndarray:
    """Return a query with one row [value, 0] per value."""
    return np.array([[value, 0.0] for value in values])


def is_error(answer: Any) -> bool:
    return isinstance(answer, model_server_pb2.BatchError)

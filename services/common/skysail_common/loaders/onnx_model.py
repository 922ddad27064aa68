"""ONNX models, which onnxruntime runs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from typing_extensions import override

from skysail_common.errors import FailedPrecondition, InvalidInput
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.rows import answer_in_parts, rows_at_once
from skysail_common.model_functions import Function
from skysail_common.tensors import Array, Content, DataType, Signature, TensorSpec

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"

_DATATYPES = {
    "bool": DataType.BOOL,
    "uint8": DataType.UINT8,
    "uint16": DataType.UINT16,
    "uint32": DataType.UINT32,
    "uint64": DataType.UINT64,
    "int8": DataType.INT8,
    "int16": DataType.INT16,
    "int32": DataType.INT32,
    "int64": DataType.INT64,
    "float16": DataType.FP16,
    "float": DataType.FP32,
    "double": DataType.FP64,
    "string": DataType.BYTES,
}
_CLASSES = "seq(map("
"""Type of the probabilities that converters of scikit-learn write: a dictionary for each row."""

_ADVICE = (
    "make the axis variable: export with dynamic axes, or set "
    "model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = 'batch' by onnx"
)


class OnnxLoader(Loader):
    """The loader of an ONNX model.

    Options:
        file: Name of the model among the files of the format.
    """

    _session: Any = None

    @override
    def load(self, context: ModelContext) -> Function:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, context.num_threads)
        self._session = onnxruntime.InferenceSession(
            str(context.data(self.options["file"])),
            options,
            providers=_providers(context.device, onnxruntime.get_available_providers()),
        )
        session = self._session
        first = session.get_inputs()[0]
        rows = _rows(first)
        names = [each.name for each in session.get_inputs()]
        outputs = [each.name for each in session.get_outputs()]

        def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
            answers = session.run(outputs, dict(arrays))
            return {name: _array(answer) for name, answer in zip(outputs, answers, strict=True)}

        def predict(inputs: Any) -> dict[str, Array]:
            given = inputs if isinstance(inputs, Mapping) else {names[0]: inputs}
            return answer_in_parts(run, given, rows)

        return predict

    @override
    def signature(self) -> Signature | None:
        """Return what the model states; None if it does not state the rank of an output."""
        inputs = tuple(map(_input, self._session.get_inputs()))
        outputs = [_output(each) for each in self._session.get_outputs()]
        known = tuple(each for each in outputs if each is not None)
        return Signature(inputs, known) if len(known) == len(outputs) else None


def _providers(device: str, available: list[str]) -> list[Any]:
    if not device.startswith("cuda"):
        return [_CPU]
    if _CUDA not in available:
        raise FailedPrecondition(
            f"cannot load the model on {device}: this onnxruntime runs on {', '.join(available)} "
            "only; add onnxruntime-gpu to pkgs_to_install, or deploy with gpus=0"
        )
    return [(_CUDA, {"device_id": int(device.partition(":")[2] or 0)}), _CPU]


def _rows(value: Any) -> int | None:
    size = value.shape[0] if value.shape else None
    # A name in place of a size stands for any size.
    return rows_at_once(value.name, size if isinstance(size, int) else None, _ADVICE)


def _input(value: Any) -> TensorSpec:
    if not value.shape:
        raise InvalidInput(
            f"cannot deploy the model: input {value.name!r} has no batch axis; export the model with "
            "inputs [batch, …]"
        )
    return _spec(value)


def _output(value: Any) -> TensorSpec | None:
    if value.type.startswith(_CLASSES):
        return TensorSpec(value.name, DataType.FP32, (-1, -1))
    return _spec(value) if value.shape else None


def _spec(value: Any) -> TensorSpec:
    datatype = _DATATYPES.get(value.type.removeprefix("tensor(").removesuffix(")"))
    if datatype is None:
        raise InvalidInput(
            f"cannot deploy the model: {value.name!r} has the type {value.type}, which no datatype "
            "holds; export the model with tensors of numbers or texts"
        )
    sizes = tuple(size if isinstance(size, int) and size > 0 else -1 for size in value.shape[1:])
    content = Content.TEXT if datatype is DataType.BYTES else Content.BINARY
    return TensorSpec(value.name, datatype, (-1, *sizes), content)


def _array(answer: Any) -> Array:
    if isinstance(answer, list) and answer and isinstance(answer[0], Mapping):
        return np.array([list(row.values()) for row in answer], np.float32)
    return np.asarray(answer)

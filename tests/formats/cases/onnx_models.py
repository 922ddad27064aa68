"""ONNX models: in memory, and in a file with its weights in another file."""

from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case

ROWS = {
    "features": np.array([[1, 2, 3, 4], [0.5, -1, 2, 0], [-3, 1, 0, 2]], np.float32),
    "scale": np.array([[1.5], [2], [-1]], np.float32),
}


def model(number: int, folder: Path) -> Any:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(number).normal(size=(4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weights"], ["product"]),
            helper.make_node("Mul", ["product", "scale"], ["scores"]),
        ],
        "scores",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["batch", 1]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def file(number: int, folder: Path) -> Path:
    import onnx

    path = folder / "scores.onnx"
    made = model(number, folder)
    onnx.save(made, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def answer(made: Any, batch: dict[str, Any]) -> dict[str, Any]:
    import onnxruntime

    source = str(made) if isinstance(made, Path) else made.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return {"scores": session.run(None, batch)[0]}


CASES = [
    Case(
        name, make, lambda: ROWS, answer, needs=["onnx", "onnxruntime"], module="onnxruntime",
        needs_same_python=False,
    )
    for name, make in (("onnx", model), ("onnx-file", file))
]  # fmt: skip

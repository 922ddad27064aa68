"""What the contract does not ask of ONNX models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats import unpacked
from formats.cases.onnx_models import file
from skysail.artifact.build import build_artifact
from skysail_common.errors import FailedPrecondition, InvalidInput
from skysail_common.loaders.base import ModelContext, make_loader

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def model(batch: Any, kind: str = "FLOAT", operation: str = "Identity") -> Any:
    helper = onnx.helper
    element = getattr(onnx.TensorProto, kind)
    shape = [batch, 2] if batch != "none" else []
    graph = helper.make_graph(
        [helper.make_node(operation, ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def predict(source: Any, directory: Path, x: Any) -> Any:
    artifact = build_artifact(source)
    unpacked.write(artifact, directory)
    artifact.close()
    (found,) = unpacked.load(directory).predict([x], len(x))
    return found


@pytest.mark.parametrize("batch", ["batch", None, 1])
def test_no_example_is_needed(tmp_path: Path, batch: Any):
    np.testing.assert_array_equal(predict(model(batch), tmp_path, X), X)


def test_texts_go_in_and_out(tmp_path: Path):
    texts = np.array([["a", "Å"], ["", "日"]], object)
    assert predict(model("n", "STRING"), tmp_path, texts).tolist() == texts.tolist()


@pytest.mark.parametrize("kind", ["INT64", "BOOL", "FLOAT16", "DOUBLE", "UINT8"])
def test_numbers_of_each_type(tmp_path: Path, kind: str):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, kind))
    found = predict(model("n", kind), tmp_path, X.astype(dtype))
    assert (found.dtype, found.tolist()) == (dtype, X.astype(dtype).tolist())


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (lambda: model(3), r"'x' has a batch axis of the fixed size 3, .*dim_param = 'batch'"),
        (lambda: model("none"), "'x' has no batch axis"),
        (lambda: model("n", "COMPLEX64"), "complex64"),
    ],
)
def test_models_without_a_batch_axis_of_any_size_are_refused(source: Any, says: str):
    with pytest.raises(InvalidInput, match=says):
        build_artifact(source())


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"m\.onnx"):
        build_artifact(tmp_path / "m.onnx")


def test_the_weights_beside_a_model_are_missed(tmp_path: Path):
    path = file(0, tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InvalidInput, match=r"its weights are in 'weights\.bin'"):
        build_artifact(path)


def test_an_example_becomes_the_type_of_the_model():
    artifact = build_artifact(model("n"), example=[[1, 2]])
    assert artifact.manifest.examples == (((1, 2),),)
    with pytest.raises(InvalidInput, match=r"the shape \[1, 3\], and the model takes \[-1, 2\]"):
        build_artifact(model("n"), example=[[1, 2, 3]])


def test_a_runtime_without_gpus_names_the_one_with_them(tmp_path: Path):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is for GPUs")
    context = ModelContext(data_directory=tmp_path, device="cuda:0")
    with pytest.raises(FailedPrecondition, match="add onnxruntime-gpu to pkgs_to_install"):
        make_loader("onnx", {"file": "m.onnx"}).load(context)

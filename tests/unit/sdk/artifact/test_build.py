import hashlib
import importlib.metadata
import json
import pickle
import platform
import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import skysail_common
from skysail.artifact.build import build_artifact
from skysail.packaging import function_of_model
from skysail.packaging.base import Packaged
from skysail_common.artifacts import parse_manifest
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.model_functions import LIST_OUTPUT
from skysail_common.tensors import (
    Content,
    DataType,
    InputType,
    Signature,
    Tensor,
    TensorSpec,
    to_numpy,
)
from skysail_testing.artifacts import members_of
from skysail_testing.examples import examples

# Definitions of this module are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

X = np.arange(6.0).reshape(2, 3)


def specs_of(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, list[int], str]]:
    return [(spec.name, spec.datatype.name, list(spec.shape), spec.content.name) for spec in specs]


def refusal(function: Any = lambda x: x, **arguments: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        build_artifact(function, **arguments)
    return caught.value.message


def failure(function: Any, **arguments: Any) -> str:
    with pytest.raises(ModelFailed) as caught:
        build_artifact(function, **arguments)
    return caught.value.message


def test_the_signature_is_inferred_from_an_array():
    artifact = build_artifact(lambda images: images.sum(axis=1), example=X)
    assert specs_of(artifact.signature.inputs) == [("images", "FP64", [-1, 3], "BINARY")]
    assert specs_of(artifact.signature.outputs) == [("output", "FP64", [-1], "BINARY")]
    assert artifact.manifest.calling == "array"
    assert artifact.manifest.examples == (((2, 3),),)
    assert artifact.signature.input_type is InputType.DOUBLES


@settings(max_examples=examples(20))
@given(
    st.sampled_from([each for each in DataType if each not in (DataType.BYTES, DataType.BF16)]),
    array_shapes(min_dims=1, max_dims=4, max_side=3),
    st.data(),
)
def test_the_signature_is_inferred_from_any_numeric_array(datatype, shape, data):
    example = data.draw(arrays(datatype.dtype, shape))
    artifact = build_artifact(lambda x: x, example=example)
    spec = TensorSpec("x", datatype, (-1, *shape[1:]))
    assert artifact.signature.inputs == (spec,)
    assert artifact.signature.outputs[0].datatype is datatype
    stored = members_of(artifact)["example/0/0.bin"]
    assert to_numpy(Tensor("x", datatype, shape, stored)).tobytes() == example.tobytes()


def test_a_list_is_what_numpy_makes_of_it():
    artifact = build_artifact(lambda x: x, example=[[1, 2], [3, 4]])
    assert specs_of(artifact.signature.inputs) == [("x", "INT64", [-1, 2], "BINARY")]
    artifact = build_artifact(lambda x: x, example=[1.5])
    assert specs_of(artifact.signature.inputs) == [("x", "FP64", [-1], "BINARY")]


def test_the_signature_is_inferred_from_strings():
    artifact = build_artifact(lambda words: np.char.upper(words.astype(str)), example=["a", "bc"])
    assert specs_of(artifact.signature.inputs) == [("words", "BYTES", [-1], "TEXT")]
    assert specs_of(artifact.signature.outputs) == [("output", "BYTES", [-1], "TEXT")]
    assert artifact.signature.input_type is InputType.STRINGS


def test_the_signature_is_inferred_from_whole_byte_strings():
    artifact = build_artifact(lambda x: x, example=[b"\x00\xff\x00", b"a"])
    assert specs_of(artifact.signature.inputs) == [("x", "BYTES", [-1], "BINARY")]
    assert specs_of(artifact.signature.outputs) == [("output", "BYTES", [-1], "BINARY")]
    stored = Tensor("x", DataType.BYTES, (2,), members_of(artifact)["example/0/0.bin"])
    assert to_numpy(stored).tolist() == [b"\x00\xff\x00", b"a"]


def test_a_dictionary_goes_to_the_parameters_of_its_names():
    artifact = build_artifact(
        lambda age, income=None: age + income, example={"income": [1.5], "age": [3]}
    )
    assert artifact.manifest.calling == "keywords"
    assert specs_of(artifact.signature.inputs) == [
        ("income", "FP64", [-1], "BINARY"),
        ("age", "INT64", [-1], "BINARY"),
    ]
    assert artifact.signature.input_type is InputType.TENSORS


def test_a_dictionary_goes_to_a_function_that_takes_any_keyword():
    artifact = build_artifact(lambda **columns: columns["a"], example={"a": [1]})
    assert artifact.manifest.calling == "keywords"


@pytest.mark.parametrize(
    "function",
    [
        lambda row: row["a"] + row["b"],
        lambda row, /: row["a"] + row["b"],
        lambda *rows: rows[0]["a"],
    ],
    ids=["by name", "by place", "any"],
)
def test_a_function_of_one_parameter_takes_a_dictionary_whole(function):
    artifact = build_artifact(function, example={"a": [1], "b": [2]})
    assert artifact.manifest.calling == "mapping"
    assert [spec.name for spec in artifact.signature.inputs] == ["a", "b"]


class Classifier:
    """A model of the user."""

    def predict(self, images):
        return images

    def __call__(self, rows):
        return rows


def with_default(first=None, second=2):
    return first


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda images, scale=1: images, "images"),
        (lambda images, /: images, "images"),
        (lambda *batch: batch[0], "input"),
        (with_default, "first"),
        (Classifier().predict, "images"),
        (Classifier(), "rows"),
        (partial(with_default, second=3), "first"),
        (np.vectorize(abs), "input"),
    ],
)
def test_the_input_has_the_name_of_the_first_parameter(function, name):
    assert build_artifact(function, example=X).signature.inputs[0].name == name


def test_a_tuple_gives_numbered_outputs():
    artifact = build_artifact(lambda x: (x[:, 0], ["a"] * len(x)), example=X)
    assert specs_of(artifact.signature.outputs) == [
        ("output0", "FP64", [-1], "BINARY"),
        ("output1", "BYTES", [-1], "TEXT"),
    ]


def test_a_dictionary_names_the_outputs():
    artifact = build_artifact(
        lambda x: {"label": np.zeros(len(x), "i4"), "scores": x.astype("f4")}, example=X
    )
    assert specs_of(artifact.signature.outputs) == [
        ("label", "INT32", [-1], "BINARY"),
        ("scores", "FP32", [-1, 3], "BINARY"),
    ]


@pytest.mark.parametrize("name", ["integers", "floats", "doubles", "bytes", "strings"])
def test_an_input_type_stands_for_a_function_that_takes_a_list(name):
    def fail(inputs):
        raise AssertionError("it was run")

    artifact = build_artifact(fail, input_type=name)
    assert artifact.manifest.calling == "list"
    assert artifact.manifest.examples == ()
    assert artifact.signature.input_type is InputType.named(name)
    assert artifact.signature.inputs[0].name == "input"
    assert artifact.signature.outputs == (LIST_OUTPUT,)
    assert not any(name.startswith("example") for name in members_of(artifact))


@pytest.mark.parametrize("arguments", [{}, {"example": X, "input_type": "doubles"}])
def test_either_an_example_or_an_input_type_is_given(arguments):
    assert (
        refusal(**arguments)
        == "cannot deploy the function: give exactly one of example, examples and input_type"
    )


def test_an_unknown_input_type_is_refused():
    assert "'double' is not an input type; known are" in refusal(input_type="double")
    assert refusal(input_type="tensors") == (
        "cannot use the input_type 'tensors': it does not define a signature; give an example"
    )


def test_an_object_that_is_not_callable_is_refused():
    assert refusal(5, example=X).startswith("cannot deploy a int: it is no function")


@pytest.mark.parametrize("example", [5.0, "text", b"bytes", [], np.zeros((0, 3)), np.float32(1)])
def test_an_example_without_a_batch_axis_is_refused(example):
    assert refusal(example=example) == (
        "cannot use the example of 'x': it needs a batch axis with at least one row; for a single input give "
        "[input], or deploy a function of one input with batch=False"
    )


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (np.zeros((2, 0)), "cannot use the example of 'x': it has an axis of size 0: [2, 0]"),
        ([None], "cannot use the example: 'x' holds a value of type NoneType"),
        ([{"a": 1}], "cannot use the example: 'x' holds a value of type dict"),
        ([[1], [2, 3]], "cannot use the example: 'x' is not an array"),
        (np.zeros(1, "c8"), "cannot use the example: 'x' has numpy type complex64"),
        ({}, "cannot use the example: the dictionary is empty"),
        (
            {"a": [1, 2], "b": [1]},
            "cannot use the example: its inputs have different numbers of rows: [1, 2]",
        ),
        ({"a": [1], "b": 2}, "cannot use the example of 'b': it needs a batch axis"),
    ],
)
def test_an_example_that_is_no_array_is_refused(example, message):
    assert refusal(example=example).startswith(message)


def test_the_error_has_the_text_of_the_function():
    def predict(x):
        return x @ np.ones((4, 1))

    message = failure(predict, example=X)
    assert message.startswith("the function failed on the example: ValueError: matmul")


def needs_a_package(x):
    import nosuchpackage  # noqa: F401


def test_a_missing_package_must_be_installed_here_or_in_replicas():
    assert failure(needs_a_package, example=X).endswith(
        "No module named 'nosuchpackage'; the function runs on this machine to learn its signature: "
        "install nosuchpackage here too, or name its package in pkgs_to_install, so that the first "
        "replica learns it"
    )


def test_a_replica_learns_the_outputs_of_a_function_whose_package_only_it_has():
    artifact = build_artifact(
        needs_a_package, examples=[X, np.ones((2, 5))], requirements=["nosuchpackage"]
    )
    assert artifact.signature.inputs == (TensorSpec("x", DataType.FP64, (-1, -1)),)
    assert artifact.signature.outputs == ()
    assert artifact.manifest.examples == ((X.shape,), ((2, 5),))


def test_a_class_that_cannot_load_here_is_learned_in_a_replica():
    class Model:
        def load(self, context):
            import nosuchpackage  # noqa: F401

        def predict(self, x):
            return x

    artifact = build_artifact(Model, example=X, requirements=["nosuchpackage"])
    assert (artifact.manifest.calling, artifact.signature.outputs) == ("array", ())
    assert [spec.name for spec in artifact.signature.inputs] == ["input"]
    with pytest.raises(ModuleNotFoundError):
        build_artifact(Model, example=X)
    assert build_artifact(Model, input_type="doubles", requirements=["nosuchpackage"])


def test_a_format_that_this_machine_cannot_open_is_learned_in_a_replica(monkeypatch):
    packaged = Packaged(open=None, loader="some", data={"model.some": b"weights"})
    monkeypatch.setattr("skysail.artifact.build.recognise", lambda *_: packaged)
    artifact = build_artifact("model.some", example={"a": X, "b": X})
    assert artifact.manifest.calling == "mapping"
    assert [spec.name for spec in artifact.signature.inputs] == ["a", "b"]
    assert not artifact.signature.is_known
    assert build_artifact("model.some").signature == Signature((), ())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (3.0, "the function returned a single value; it must return one for each row"),
        (None, "the function returned None; it must return an output for each row"),
        ([None, None], "'output' holds a value of type NoneType"),
        ([1.0], "the function returned 1 rows in output 'output' for 2 rows of input"),
        ((), "the function returned an empty dict or tuple"),
        ({}, "the function returned an empty dict"),
        (np.ones((2, 0)), "the function returned an axis of size 0 in output 'output'"),
        (np.zeros(2, "c16"), "'output' has numpy type complex128"),
        ({"label": [1, 2], "why": "a"}, "the function returned a single value"),
        ({"label": [1, 2], "why": [1, 2, 3]}, "the function returned 3 rows in output 'why'"),
    ],
)
def test_a_function_that_returns_no_arrays_is_refused(returned, message):
    assert failure(lambda x: returned, example=X).startswith(message)


def test_the_example_is_not_changed_by_the_function():
    def spoil(x):
        x *= 0
        return x

    example = np.ones((1, 2))
    artifact = build_artifact(spoil, example=example)
    assert example.tolist() == [[1, 1]]
    assert np.frombuffer(members_of(artifact)["example/0/0.bin"]).tolist() == [1, 1]


def test_an_artifact_holds_what_a_replica_needs():
    artifact = build_artifact(lambda x: x * 2, example=X, requirements=["numpy>=1.24"])
    found = members_of(artifact)
    assert list(found) == ["manifest.json", "example/0/0.bin", "model.pkl"]
    assert np.frombuffer(found["example/0/0.bin"]).tolist() == X.ravel().tolist()
    assert pickle.loads(found["model.pkl"])(3) == 6
    assert parse_manifest(found["manifest.json"]) == artifact.manifest
    assert artifact.manifest.python_version == platform.python_version()
    assert artifact.manifest.skysail_version == skysail_common.__version__
    assert artifact.manifest.requirements == ("numpy>=1.24",)


def test_examples_are_kept_in_the_order_of_the_signature():
    artifact = build_artifact(
        lambda b, a: a, example={"b": np.array([1, 2]), "a": np.array([3.5, 4])}
    )
    found = members_of(artifact)
    assert np.frombuffer(found["example/0/0.bin"], "i8").tolist() == [1, 2]
    assert np.frombuffer(found["example/0/1.bin"], "f8").tolist() == [3.5, 4]
    assert artifact.manifest.examples == (((2,), (2,)),)


def test_the_same_function_gives_the_same_sha_256():
    weights = np.ones(3)

    def predict(x):
        return x @ weights

    first = build_artifact(predict, example=X)
    second = build_artifact(predict, example=X)
    assert first.sha256 == second.sha256 == hashlib.sha256(first.manifest_bytes).hexdigest()


@pytest.mark.parametrize(
    "arguments",
    [{"example": X + 1}, {"example": X, "requirements": ["numpy"]}, {"input_type": "doubles"}],
    ids=["example", "requirements", "input type"],
)
def test_other_content_gives_another_sha_256(arguments):
    def predict(x):
        return x

    before = build_artifact(predict, example=X)
    assert build_artifact(predict, **arguments).sha256 != before.sha256


def test_other_code_and_other_data_give_another_sha_256():
    def with_weight(weight):
        return lambda x: x * weight

    found = {build_artifact(with_weight(weight), example=X).sha256 for weight in (1, 2)}
    found.add(build_artifact(lambda x: x, example=X).sha256)
    assert len(found) == 3


def test_packages_are_recorded_with_their_versions():
    packages = build_artifact(lambda x: np.tanh(x), example=X).manifest.packages
    assert packages["numpy"] == np.__version__
    assert "skysail" not in packages
    assert all(re.match(r"\d", version) for version in packages.values())


def test_a_package_that_is_not_used_is_not_recorded():
    packages = build_artifact(lambda x: [1] * len(x), example=[1]).manifest.packages
    assert "hypothesis" not in packages
    assert "pytest" not in packages
    assert "numpy" not in packages


def test_the_package_of_an_object_that_the_function_holds_is_recorded():
    choice = click.Choice(["a", "b"])
    packages = build_artifact(lambda x: [choice.choices[0]] * len(x), example=X).manifest.packages
    assert packages["click"] == importlib.metadata.version("click")


def test_a_package_that_only_the_code_imports_is_recorded_although_it_did_not_run():
    def predict(inputs):
        from httpx import URL

        return [URL(each).host for each in inputs]

    artifact = build_artifact(predict, input_type="strings")
    assert artifact.manifest.packages["httpx"] == importlib.metadata.version("httpx")
    assert not any(name.startswith("modules/") for name in members_of(artifact))


def test_the_manifest_is_canonical_json():
    content = members_of(build_artifact(lambda x: x, example=X))["manifest.json"].decode()
    assert content == json.dumps(json.loads(content), sort_keys=True, separators=(",", ":"))


def test_the_content_of_an_output_is_told_by_its_elements():
    artifact = build_artifact(lambda x: [b"a", "b"], example=X)
    assert artifact.signature.outputs[0].content is Content.BINARY
    assert isinstance(artifact.signature, Signature)


@pytest.mark.parametrize(
    "wrong",
    [{"files": {"x": "/nowhere"}}, {"example": [1.0], "examples": [[1.0]]}, {"example": object()}],
    ids=["files", "examples", "example"],
)
def test_files_written_for_a_deploy_are_removed_if_it_fails(tmp_path: Path, wrong, monkeypatch):
    monkeypatch.setattr(function_of_model, "open_native_model", lambda **arguments: ())
    directory = TemporaryDirectory(dir=tmp_path)
    model = Path(directory.name) / "model.onnx"
    model.touch()
    source = function_of_model.FunctionOfModel(lambda x: x, "onnx", model, temporary=directory)
    with pytest.raises(InvalidInput):
        build_artifact(source, **{"example": [1.0], **wrong})
    assert list(tmp_path.iterdir()) == []

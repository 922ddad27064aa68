"""Deployers, with the argument order of Clipper."""

import inspect
import sys
from types import ModuleType
from typing import Any

import pytest

from skysail.artifact.build import build_artifact
from skysail.calls.promotion_warning import SkysailWarning
from skysail.deployers import keras, mxnet, onnx, pyspark, python, pytorch, tensorflow
from skysail.errors import InvalidInput, Unsupported
from skysail.packaging.function_of_model import FunctionOfModel
from skysail.sentinels import NOT_GIVEN

TAIL = ["num_replicas", "batch_size", "pkgs_to_install"]
PLACE = ["base_image", "labels", "registry", *TAIL]
SERVED = ["default_output", "version", "slo_micros", "labels", "registry", "base_image", *TAIL]


class RecordingClient:
    def __init__(self) -> None:
        self.source: Any = None
        self.given: dict[str, Any] = {}

    def deploy(self, source: Any, **given: Any) -> None:
        self.source, self.given = source, given


@pytest.fixture
def client() -> RecordingClient:
    return RecordingClient()


def total(inputs):
    return [str(sum(each)) for each in inputs]


def scaled(model, inputs):
    return [str(model * sum(each)) for each in inputs]


@pytest.mark.parametrize(
    ("module", "function", "model"),
    [
        (python, "deploy_python_closure", []),
        (pytorch, "deploy_pytorch_model", ["pytorch_model"]),
        (keras, "deploy_keras_model", ["model_path_or_object"]),
        (tensorflow, "deploy_tensorflow_model", ["tf_sess_or_saved_model_path"]),
        (pyspark, "deploy_pyspark_model", ["pyspark_model", "sc"]),
    ],
)
def test_arguments_are_in_the_order_of_clipper(module, function, model):
    first = ["client", "name", "version", "input_type", "func", *model]
    assert list(inspect.signature(getattr(module, function)).parameters) == first + PLACE
    first.remove("version")
    assert list(inspect.signature(module.create_endpoint).parameters) == first + SERVED


def test_the_deployer_of_onnx_has_its_inputs_and_backend():
    names = list(inspect.signature(onnx.deploy_pytorch_model).parameters)
    assert names[3:7] == ["input_type", "inputs", "func", "pytorch_model"]
    assert names[-3:] == ["onnx_backend", "batch_size", "pkgs_to_install"]
    with pytest.raises(Unsupported, match="replicas have onnxruntime"):
        onnx.deploy_pytorch_model(None, "m", 1, "floats", None, scaled, None, onnx_backend="caffe2")


def test_a_closure_is_deployed_as_it_is(client):
    python.deploy_python_closure(
        client, "sum", 1, "ints", total, labels=["nightly"], batch_size=4, pkgs_to_install=["rich"]
    )
    assert client.source is total
    assert client.given == {
        "name": "sum", "version": 1, "input_type": "integers", "labels": {"nightly": ""},
        "num_replicas": 1, "max_batch_size": 4, "pkgs_to_install": ["rich"],
    }  # fmt: skip


def test_an_endpoint_is_an_application_of_the_same_name(client):
    python.create_endpoint(client, "sum", "doubles", total)
    assert client.given["application"] == "sum"
    assert (client.given["slo_ms"], client.given["default_output"]) == (3000, "None")
    assert (client.given["version"], client.given["max_batch_size"]) == (1, None)
    python.create_endpoint(client, "sum", "doubles", total, default_output=None)
    assert client.given["default_output"] is NOT_GIVEN


@pytest.mark.parametrize("batch_size", [0, -2])
def test_an_impossible_batch_size_is_refused(client, batch_size):
    with pytest.raises(InvalidInput, match="at least 1, or -1 to adapt it"):
        python.deploy_python_closure(client, "sum", 1, "ints", total, batch_size=batch_size)


@pytest.mark.parametrize("given", [{"registry": "hub"}, {"base_image": "clipper/python36"}])
def test_what_has_no_meaning_here_is_a_warning_at_the_line_of_the_caller(client, given):
    (name,) = given
    with pytest.warns(SkysailWarning, match=f"{name}='.*' is ignored") as warned:
        python.deploy_python_closure(client, "sum", 1, "ints", total, **given)
    assert warned[0].filename == __file__
    assert client.source is total


class Parameter:
    class device:
        type = "cpu"


class Module:
    def parameters(self):
        return [Parameter()]

    def __call__(self, inputs):
        return [2 * sum(each) for each in inputs]


def test_a_function_is_bound_to_its_module(client):
    def predict(model, inputs):
        return [str(each) for each in model(inputs)]

    pytorch.deploy_pytorch_model(client, "net", 1, "doubles", predict, Module())
    assert client.source([[1.0, 2.0]]) == ["6.0"]


class SavedModel:
    def __init__(self) -> None:
        self.saved: list[Any] = []

    def save(self, *where: Any) -> None:
        self.saved.append(where)
        with open(where[-1], "w") as file:
            file.write("3")


SavedModel.__module__ = "pyspark.ml.pipeline"


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries whose models are a number in a file."""

    def read(path):
        with open(path) as file:
            return int(file.read())

    for name in ("keras", "pyspark", "pyspark.sql", "pyspark.ml.pipeline"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    keras_module: Any = sys.modules["keras"]
    keras_module.models = ModuleType("models")
    keras_module.models.load_model = read
    spark: Any = sys.modules["pyspark.sql"]
    spark.SparkSession = ModuleType("session")
    spark.SparkSession.builder = ModuleType("builder")
    spark.SparkSession.builder.getOrCreate = lambda: "session"
    pipeline: Any = sys.modules["pyspark.ml.pipeline"]
    pipeline.SavedModel = ModuleType("SavedModel")
    pipeline.SavedModel.load = read


def answer(artifact, packaged: FunctionOfModel) -> None:
    assert artifact.manifest.options["model"]["kind"] == packaged.kind
    assert f"data/{packaged.path.name}" in {blob.path for blob in artifact.manifest.blobs}


@pytest.mark.usefixtures("libraries")
def test_a_model_of_keras_travels_in_its_own_file(client):
    keras.deploy_keras_model(client, "net", 1, "doubles", scaled, SavedModel())
    assert isinstance(client.source, FunctionOfModel)
    artifact = build_artifact(client.source, input_type="doubles")
    answer(artifact, client.source)
    artifact.close()


@pytest.mark.usefixtures("libraries")
def test_a_function_of_spark_gets_its_session_and_its_model(client):
    model = SavedModel()

    def predict(session, model, inputs):
        assert session == "session"
        return [str(model * sum(each)) for each in inputs]

    pyspark.deploy_pyspark_model(client, "spark", 1, "doubles", predict, model, "context")
    assert client.source.class_name == "pyspark.ml.pipeline.SavedModel"
    artifact = build_artifact(client.source, input_type="doubles")
    answer(artifact, client.source)
    artifact.close()


def test_models_that_no_library_runs_any_longer_are_refused(client):
    class Session:
        graph = None

        def run(self):
            pass

    with pytest.raises(InvalidInput, match=r"save the model by tf\.saved_model\.save"):
        tensorflow.deploy_tensorflow_model(client, "net", 1, "doubles", scaled, Session())
    with pytest.raises(Unsupported, match="export the model to ONNX"):
        mxnet.deploy_mxnet_model(client, "net", 1, "doubles", scaled, None, [1])
    assert mxnet.create_endpoint is mxnet.deploy_mxnet_model

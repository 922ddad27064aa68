"""An output has the same meaning in every API."""

import math

import grpc
import httpx
import numpy as np
import pytest

import skysail
from skysail import errors
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.inference import grpc_service_pb2_grpc as oip_grpc
from skysail_testing import models
from skysail_testing.clusters import RunningCluster


@pytest.fixture(scope="module")
def named(client: skysail.Client):
    client.deploy(models.by_name, name="by-name", version="1", input_type="strings")
    client.register_application("names", input_type="strings", default_output="", slo_ms=20_000)
    client.link("names", "by-name")
    yield "by-name"
    client.unregister_application("names")
    client.undeploy("by-name", force=True)


def of_rest(cluster: RunningCluster, name: str) -> tuple[object, object]:
    base = f"http://{cluster.http}"
    clipper = httpx.post(f"{base}/names/predict", json={"input": name}).json()
    inputs = [{"name": "input", "datatype": "BYTES", "shape": [1], "data": [name]}]
    v2 = httpx.post(f"{base}/v2/models/by-name/infer", json={"inputs": inputs}).json()
    return clipper["output"], v2["outputs"][0]["data"][0]


def of_triton(cluster: RunningCluster, name: str) -> bytes:
    request = oip.ModelInferRequest(model_name="by-name")
    request.inputs.add(name="input", datatype="BYTES", shape=[1])
    request.inputs[0].contents.bytes_contents.append(name.encode())
    with grpc.insecure_channel(cluster.grpc) as channel:
        answer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    return answer.raw_output_contents[0][4:]


@pytest.mark.parametrize(
    ("name", "value", "in_json", "raw"),
    [
        ("text 7", "7", "7", b'"7"'),
        ("number 7", 7, 7, b"7"),
        ("text null", "null", "null", b'"null"'),
        ("missing", None, None, b"null"),
        ("plain", "cat", "cat", b"cat"),
        ("quoted", '"cat"', '"cat"', b'"\\"cat\\""'),
        ("keys", {"0": 0.5}, {"0": 0.5}, b'{"0": 0.5}'),
        ("infinity", [-math.inf, 1], ["-Infinity", 1], b"[-Infinity, 1]"),
    ],
)
def test_texts_and_values_are_distinct_in_every_api(
    cluster, client, named, name, value, in_json, raw
):
    assert client.predict(named, name).output == value
    assert of_rest(cluster, name) == (in_json, in_json)
    assert of_triton(cluster, name) == raw


def test_nan_in_a_dictionary_is_nan_or_null(cluster, client, named):
    assert math.isnan(client.predict(named, "nan").output["score"])
    assert of_rest(cluster, "nan") == ({"score": None}, {"score": None})


@pytest.mark.parametrize("name", ["set", "bytes"])
def test_a_value_without_a_json_form_fails_the_model(cluster, client, named, name):
    with pytest.raises(errors.ModelFailed, match=f"it holds a value of type {name}; return "):
        client.predict(named, name)
    inputs = [{"name": "input", "datatype": "BYTES", "shape": [1], "data": [name]}]
    url = f"http://{cluster.http}/v2/models/by-name/infer"
    assert httpx.post(url, json={"inputs": inputs}).status_code == 500


def test_lossy_numbers_are_refused_and_missing_numbers_accepted(cluster, client):
    client.deploy(models.double, name="halves", version="1", example=np.ones((1, 2), "f4"))
    assert client.predict("halves", np.array([0.1, 2.0])).output.tolist() == pytest.approx([0.2, 4])
    assert np.isnan(client.predict("halves", [0.5, None]).output[1])
    for value in ([16777217, 1], [1e39, 1.0]):
        with pytest.raises(
            errors.InvalidInput, match=r"cannot convert tensor 'x' to FP32: .* give"
        ):
            client.predict("halves", value)
    url = f"http://{cluster.http}/v2/models/halves/infer"
    for data, status in (([None, "Infinity"], 200), ([16777217, 1], 200), ([1e39, 1], 400)):
        inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": data}]
        answer = httpx.post(url, json={"inputs": inputs})
        assert answer.status_code == status
        if None in data:
            assert answer.json()["outputs"][0]["data"] == [None, "Infinity"]
    client.undeploy("halves", force=True)

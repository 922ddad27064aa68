"""Predictions through every API, on one shared cluster."""

import httpx
import numpy as np
import pytest

import skysail
from skysail_testing import models
from skysail_testing.client_programs import assert_passes
from skysail_testing.clusters import RunningCluster


@pytest.fixture(scope="module")
def doubling(client: skysail.Client) -> str:
    client.deploy(models.double, name="doubling", version="1", example=np.ones((2, 3)))
    client.register_application("doubling-app", default_output=[0, 0, 0], slo_ms=10_000)
    client.link("doubling-app", "doubling")
    return "doubling"


@pytest.mark.transport
def test_sdk_predicts_by_application_and_by_model(client, doubling):
    for target in ("doubling-app", "doubling"):
        prediction = client.predict(target, [1, 2, 3])
        assert prediction.output.tolist() == [2.0, 4.0, 6.0]
        assert prediction.outcome == "OK"
        assert not prediction.is_default
        assert (prediction.model, prediction.version) == ("doubling", "1")
        assert 0 < prediction.timings.compute_s < prediction.timings.total_s < 10


@pytest.mark.transport
def test_predict_batch_answers_in_order(client, doubling):
    rows = np.arange(300.0).reshape(100, 3)
    predictions = client.predict_batch("doubling", rows)
    assert np.array_equal([each.output for each in predictions], rows * 2)


@pytest.mark.transport
def test_tritonclient_in_its_own_process(cluster: RunningCluster, doubling):
    program = """
        import sys, numpy as np, tritonclient.grpc as triton
        client = triton.InferenceServerClient(sys.argv[1])
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("doubling")
        assert client.is_model_ready("doubling", "1")
        assert not client.is_model_ready("nope")
        assert client.get_server_metadata().name == "skysail"
        metadata = client.get_model_metadata("doubling")
        assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("x", "FP64", [-1, 3])]
        assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("output", "FP64", [-1, 3])]
        tensor = triton.InferInput("x", [2, 3], "FP64")
        tensor.set_data_from_numpy(np.arange(6.0).reshape(2, 3))
        result = client.infer("doubling", [tensor], request_id="seven", client_timeout=10)
        assert result.as_numpy("output").tolist() == [[0, 2, 4], [6, 8, 10]]
        assert result.get_response().id == "seven"
        assert result.get_response().model_version == "1"
        try:
            client.infer("nope", [tensor])
        except triton.InferenceServerException as error:
            assert error.status() == "StatusCode.NOT_FOUND", error
            assert "Request for unknown model" in error.message()
        else:
            raise AssertionError("an unknown model answered")
        print("passed")
    """
    assert_passes(program, cluster.grpc)


@pytest.mark.transport
def test_tritonclient_names_its_inputs_in_any_order(client: skysail.Client, cluster, doubling):
    ones = np.ones((1, 3))
    client.deploy(models.difference, name="difference", version="1", example={"a": ones, "b": ones})
    program = """
        import queue, sys, numpy as np, tritonclient.grpc as triton
        client = triton.InferenceServerClient(sys.argv[1])
        def inputs(names, number):
            for name in names:
                value = {"a": 10.0 * number, "b": number}[name]
                tensor = triton.InferInput(name, [1, 3], "FP64")
                tensor.set_data_from_numpy(np.full((1, 3), value, "f8"))
                yield tensor
        for names in ("ab", "ba"):
            for number in (1, 2, 3):
                result = client.infer("difference", list(inputs(names, number)), client_timeout=10)
                assert result.as_numpy("output").tolist() == [[9.0 * number] * 3], (names, number)
        answers = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for names in ("ba", "ab"):
            for number in (1, 2, 3):
                client.async_stream_infer("difference", list(inputs(names, number)))
                result, error = answers.get(timeout=10)
                assert error is None, error
                assert result.as_numpy("output").tolist() == [[9.0 * number] * 3], (names, number)
        client.stop_stream()
        for name in ("x" * 40_000, "日" * 4_000):
            for _ in range(10):
                try:
                    client.infer(name, list(inputs("ab", 1)))
                except triton.InferenceServerException as error:
                    assert error.status() == "StatusCode.NOT_FOUND", error
                else:
                    raise AssertionError("an unknown model answered")
        print("passed")
    """
    assert_passes(program, cluster.grpc)


def test_tritonclient_over_http_in_its_own_process(cluster: RunningCluster, doubling):
    program = """
        import sys, numpy as np, tritonclient.http as triton
        client = triton.InferenceServerClient(sys.argv[1])
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("doubling") and not client.is_model_ready("nope")
        assert client.get_model_metadata("doubling")["inputs"][0]["name"] == "x"
        rows = np.arange(6.0).reshape(2, 3)
        tensor = triton.InferInput("x", [2, 3], "FP64")
        # Binary both ways unless told otherwise.
        tensor.set_data_from_numpy(rows)
        output = triton.InferRequestedOutput("output")
        for options in ({}, {"outputs": [output]}, {"request_compression_algorithm": "gzip"},
                        {"request_compression_algorithm": "deflate"}):
            result = client.infer("doubling", [tensor], request_id="seven", **options)
            assert result.as_numpy("output").tolist() == (rows * 2).tolist()
            assert "binary_data_size" in result.get_output("output")["parameters"]
            assert result.get_response()["id"] == "seven"
        tensor.set_data_from_numpy(rows, binary_data=False)
        output = triton.InferRequestedOutput("output", binary_data=False)
        result = client.infer("doubling", [tensor], outputs=[output])
        assert result.as_numpy("output").tolist() == (rows * 2).tolist()
        try:
            client.infer("nope", [tensor])
        except triton.InferenceServerException as error:
            assert error.status() == "404", error
            assert "Request for unknown model" in error.message()
        else:
            raise AssertionError("an unknown model answered")
        print("passed")
    """
    assert_passes(program, cluster.http)


def test_v2_rest(cluster: RunningCluster, doubling):
    base = f"http://{cluster.http}"
    assert httpx.get(f"{base}/v2").json()["name"] == "skysail"
    assert httpx.get(f"{base}/v2/health/live").status_code == 200
    assert httpx.get(f"{base}/v2/health/ready").status_code == 200
    metadata = httpx.get(f"{base}/v2/models/doubling").json()
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}]
    assert httpx.get(f"{base}/v2/models/doubling/versions/1/ready").status_code == 200
    body = {
        "id": "7",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [[1, 2.5, 3]]}],
    }
    answer = httpx.post(f"{base}/v2/models/doubling/infer", json=body).json()
    assert answer == {
        "model_name": "doubling",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "output", "datatype": "FP64", "shape": [1, 3], "data": [2, 5, 6]}],
    }


def test_clipper_rest(cluster: RunningCluster, doubling):
    url = f"http://{cluster.http}/doubling-app/predict"
    for address in (url, url + "/"):
        answer = httpx.post(address, json={"input": [1, 2, 3]}).json()
        assert isinstance(answer.pop("query_id"), int)
        assert answer == {"output": [2.0, 4.0, 6.0], "default": False}
    answers = httpx.post(url, json={"input_batch": [[1, 2, 3]] * 4}).json()["batch_predictions"]
    assert [each["output"] for each in answers] == [[2.0, 4.0, 6.0]] * 4
    assert len({each["query_id"] for each in answers}) == 4
    one = httpx.post(url, json={"input_batch": [[1, 2, 3]]}).json()
    assert len(one["batch_predictions"]) == 1


def test_lists_of_doubles_work_as_in_clipper(client, cluster):
    client.deploy(models.sums, name="sums", version="1.0", input_type="doubles")
    client.register_application("sums-app", "doubles", default_output="none", slo_ms=10_000)
    client.link("sums-app", "sums")
    assert client.predict("sums-app", [1, 2, 3]).output == 6.0
    assert [p.output for p in client.predict_batch("sums-app", [[1], [1, 2], [0.5] * 5])] == [
        1.0,
        3.0,
        2.5,
    ]
    url = f"http://{cluster.http}/sums-app/predict"
    assert httpx.post(url, json={"input": [1, 2.5]}).json()["output"] == 3.5

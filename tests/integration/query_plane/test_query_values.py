"""Inputs of unusual sizes and values."""

import re
from collections import Counter

import grpc
import numpy as np
import pytest

from skysail import errors
from skysail_common.serving_options import ServingOptions
from skysail_testing.query_plane import Plane, infer_body, infer_request, predict_request, refused
from skysail_testing.traffic import traffic


class TestUnusualSizesAndValues:
    def test_nan_is_null_in_json_and_itself_in_protobuf(self, plane: Plane, napping: str):
        plane.client.register_application("nan-app", slo_ms=20_000)
        plane.client.link("nan-app", napping)
        body = infer_body(np.array([[-1.0], [0.0], [-1.0]]))
        answer = plane.http.post(f"/v2/models/{napping}/infer", json=body)
        assert answer.json()["outputs"][0]["data"] == [None, 0, None]
        answer = plane.http.post("/nan-app/predict", json={"input": [-1]})
        assert answer.status_code == 200
        assert answer.json()["output"] == [None]
        assert answer.json()["default"] is False
        request = infer_request(napping, np.full((1, 1), -1.0))
        response = plane.inference.ModelInfer(request, timeout=10)
        assert np.isnan(np.frombuffer(response.raw_output_contents[0])).tolist() == [True]
        assert np.isnan(plane.client.predict(napping, [-1]).output).tolist() == [True]

    LARGE = 100e6
    """Bytes of an answer that is beyond the limit of 64 MiB."""
    TOO_LARGE = r"the answer is 1000\d{5} bytes; the limit is 67108864"

    @pytest.mark.transport
    @pytest.mark.parametrize("door", ["Predict", "ModelInfer"])
    def test_an_answer_that_is_too_large_is_a_clear_error(self, plane, door):
        if door == "Predict":
            request = predict_request("large", [self.LARGE])
            error = refused(lambda: plane.queries.Predict(request, timeout=20))
        else:
            request = infer_request("large", np.full((1, 1), self.LARGE))
            error = refused(lambda: plane.inference.ModelInfer(request, timeout=20))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert re.search(self.TOO_LARGE, error.details())
        assert dict(error.trailing_metadata())["skysail-reason"] == "ModelFailed"
        replicas = plane.client.describe_version("large").replicas
        assert plane.client.predict("large", [3.0]).output == "xxx"
        assert [each.num_restarts for each in replicas] == [0]

    @pytest.mark.parametrize("body", ["json", "binary", "input", "input_batch"])
    def test_an_answer_that_is_too_large_is_a_clear_error_over_http(self, plane, body):
        if body in ("json", "binary"):
            content = infer_body(np.full((1, 1), self.LARGE), binary_data_output=body == "binary")
            answer = plane.http.post("/v2/models/large/infer", json=content)
            text = answer.json()["error"]
        else:
            plane.client.register_application("large-app", slo_ms=20_000)
            plane.client.link("large-app", "large")
            # Each fits, and both do not.
            content = [self.LARGE] if body == "input" else [[self.LARGE / 2]] * 2
            answer = plane.http.post("/large-app/predict", json={body: content})
            text = answer.json()["cause"]
        assert answer.status_code == 500
        assert re.search(self.TOO_LARGE, text)

    @pytest.mark.transport
    def test_an_answer_that_is_too_large_for_a_stream_is_one_error_on_it(self, plane):
        before = plane.page()
        with traffic(plane.client, "double", [1, 2, 3], callers=2) as seen:
            with pytest.raises(errors.ModelFailed, match=self.TOO_LARGE):
                plane.client.predict("large", [self.LARGE])
            seen.wait_for_more(20)
        assert set(seen.outcomes) == {"OK"}, seen.problems[:3]
        requests = [
            infer_request("large", np.full((1, 1), size), str(index))
            for index, size in enumerate((3, self.LARGE, 4))
        ]
        answers = list(plane.inference.ModelStreamInfer(iter(requests), timeout=20))
        found = {each.infer_response.id: each.error_message for each in answers}
        assert (found["0"], found["2"]) == ("", "")
        assert re.search(self.TOO_LARGE, found["1"])
        # What was not sent was not answered.
        outcomes = Counter(plane.page().by("outcome", "skysail_queries_total", model="large"))
        outcomes.subtract(before.by("outcome", "skysail_queries_total", model="large"))
        assert outcomes == {"OK": 2, "INTERNAL": 2}

    @pytest.mark.transport
    def test_a_query_that_is_too_large_is_a_clear_error_and_hurts_no_other(self, plane, double):
        with traffic(plane.client, double, [1, 2, 3], callers=2, timeout_s=5) as seen:
            with pytest.raises(errors.InvalidInput, match="the limit is 67108864, which SKYSAIL_"):
                plane.client.predict(double, np.ones(9_000_000), timeout_s=5)
            seen.wait_for_more(20)
        assert set(seen.outcomes) == {"OK"}, seen.problems[:3]

    def test_no_rows_are_refused(self, plane, double):
        none = np.ones((0, 3))
        message = "unexpected shape for input 'x' for model 'double'. Expected [-1,3], got [0,3]"
        error = refused(lambda: plane.inference.ModelInfer(infer_request(double, none), timeout=10))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert message in error.details()
        answer = plane.http.post(f"/v2/models/{double}/infer", json=infer_body(none))
        assert answer.status_code == 400
        assert message in answer.json()["error"]
        request = predict_request(double, [1.0, 2, 3])
        request.inputs[0].shape[0] = 0
        request.inputs[0].data = b""
        error = refused(lambda: plane.queries.Predict(request, timeout=10))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert message in error.details()

    def test_more_rows_than_may_wait_are_refused(self, plane, untuned):
        plane.client.tune(untuned, **vars(ServingOptions(max_queue_size=100)))
        fitting = infer_request(untuned, np.ones((100, 3)))
        answer = plane.inference.ModelInfer(fitting, timeout=10)
        assert answer.outputs[0].shape == [100, 3]
        request = infer_request(untuned, np.ones((101, 3)))
        error = refused(lambda: plane.inference.ModelInfer(request, timeout=10))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "batch-size must be <= 100 for 'double'" in error.details()
        body = infer_body(np.ones((101, 3)))
        answer = plane.http.post(f"/v2/models/{untuned}/infer", json=body)
        assert answer.status_code == 400
        assert "batch-size must be <= 100" in answer.json()["error"]
        # What was fitting before it was learned is held against the options of now.
        plane.client.tune(untuned, **vars(ServingOptions(max_queue_size=99)))
        error = refused(lambda: plane.inference.ModelInfer(fitting, timeout=10))
        assert "batch-size must be <= 99" in error.details()

    @pytest.mark.transport
    def test_many_rows_are_answered_in_order(self, plane, double):
        rows = np.arange(3000.0).reshape(1000, 3)
        before = plane.page()
        answer = plane.inference.ModelInfer(infer_request(double, rows), timeout=20)
        assert answer.outputs[0].shape == [1000, 3]
        found = np.frombuffer(answer.raw_output_contents[0]).reshape(1000, 3)
        assert np.array_equal(found, rows * 2)
        after = plane.page()

        def grown(name: str, **labels: str) -> float:
            return after.sum(name, model=double, **labels) - before.sum(
                name, model=double, **labels
            )

        assert grown("skysail_queries_total") == 1
        assert grown("skysail_query_latency_seconds_count") == 1
        assert grown("skysail_batch_rows_sum") == 1000
        assert (
            grown("skysail_batch_rows_count") == grown("skysail_batch_rows_bucket", le="64") >= 16
        )
        body = infer_body(rows)
        answer = plane.http.post(f"/v2/models/{double}/infer", json=body, timeout=20)
        assert answer.json()["outputs"][0]["data"] == (rows * 2).ravel().tolist()

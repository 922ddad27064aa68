"""Metrics count each query once."""

from collections import Counter

import grpc
import numpy as np
import pytest

from skysail import errors
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.v1 import (
    query_pb2,
)
from skysail_testing.processes import eventually
from skysail_testing.query_plane import (
    ROW,
    Plane,
    infer_body,
    infer_request,
    naps,
    predict_request,
    refused,
)


class TestMetrics:
    def test_every_query_is_counted_once_by_how_it_was_answered(self, plane: Plane):
        client = plane.client
        client.register_application("counting", default_output=[0, 0, 0], slo_ms=20_000)
        client.link("counting", "counted")
        client.register_application("unrouted", default_output=0)
        client.predict_batch("counting", [[1, 2, 3]] * 40)
        for _ in range(3):
            prediction = client.predict("counting", [-1, 0, 0])
            assert prediction.outcome == "DEFAULT_MODEL_ERROR"
        for _ in range(4):
            with pytest.raises(errors.ModelFailed):
                client.predict("counted", [-1, 0, 0])
        for _ in range(2):
            assert client.predict("unrouted", 1).outcome == "DEFAULT_NO_REPLICA"
        rows = np.ones((5, 3))
        plane.inference.ModelInfer(infer_request("counted", rows), timeout=10)
        answer = plane.http.post("/v2/models/counted/infer", json=infer_body(rows))
        assert answer.status_code == 200

        page = plane.page()
        total, version = "skysail_queries_total", {"model": "counted", "version": "7"}
        by_app = page.by("outcome", total, application="counting", **version)
        assert by_app == {"OK": 40, "DEFAULT_MODEL_ERROR": 3}
        by_model = page.by("outcome", total, application="", **version)
        assert by_model == {"OK": 2, "INTERNAL": 4}
        unrouted = page.by("outcome", total, application="unrouted", model="", version="")
        assert unrouted == {"DEFAULT_NO_REPLICA": 2}

        latency = "skysail_query_latency_seconds"
        # An error is no answer, of which there would be a latency.
        for application, answered in (("counting", 43), ("", 2)):
            labels = {"application": application, **version}
            assert page.sum(f"{latency}_count", **labels) == answered
            assert page.sum(f"{latency}_bucket", le="+Inf", **labels) == answered
            assert page.sum(f"{latency}_bucket", le="10.0", **labels) == answered
            assert 0 < page.sum(f"{latency}_sum", **labels) < 10 * answered
            bounds = [
                sample.value
                for sample in page.samples
                if sample.name == f"{latency}_bucket" and labels.items() <= sample.labels.items()
            ]
            assert len(bounds) > 10
            assert bounds == sorted(bounds)

        asked, asked_rows = 40 + 3 + 4 + 2, 40 + 3 + 4 + 10
        num_batches = page.sum("skysail_batch_rows_count", **version)
        assert page.sum("skysail_batch_rows_sum", **version) == asked_rows
        assert 10 <= num_batches <= asked
        assert page.sum("skysail_dispatches_total", **version) == num_batches
        assert page.sum("skysail_compute_seconds_count", **version) == num_batches
        assert page.sum("skysail_batch_wait_seconds_count", **version) == num_batches
        assert page.sum("skysail_queue_wait_seconds_count", **version) == asked
        assert page.sum("skysail_sheds_total", **version) == 0
        assert page.sum("skysail_queue_rows", **version) == 0
        (replica,) = client.describe_version("counted").replicas
        for name, value in (("ready", 1), ("batches_in_flight", 0)):
            found = page.by("container", f"skysail_replica_{name}", **version)
            assert found == {replica.container_id: value}
        assert page.sum("skysail_profile_latency_seconds", rows="1", **version) > 0

    @pytest.mark.transport
    def test_what_is_refused_is_counted_once_by_why(self, plane: Plane, double: str, steady: str):
        name = "skysail_refused_queries_total"
        before = Counter(plane.page().by("reason", name))
        calls = [
            lambda: plane.queries.Predict(predict_request("nope", [1.0]), timeout=10),
            lambda: plane.queries.Predict(predict_request(double, [1.0]), timeout=10),
            lambda: plane.inference.ModelInfer(infer_request("nope", ROW), timeout=10),
            lambda: plane.inference.ModelInfer(infer_request(double, np.ones((1, 2))), timeout=10),
        ]
        for call in calls:
            refused(call)
        streamed = [infer_request(each, np.ones((1, 2))) for each in ("nope", double)]
        answers = list(plane.inference.ModelStreamInfer(iter(streamed), timeout=10))
        assert all(each.error_message for each in answers)
        asked = [predict_request("nope", [1.0]), predict_request(double, [1.0])]
        answers = list(plane.queries.PredictStream(iter(asked), timeout=10))
        assert all(each.HasField("error") for each in answers)
        for path, body, status in (
            ("/v2/models/nope/infer", infer_body(ROW), 404),
            (f"/v2/models/{double}/infer", infer_body(np.ones((1, 2))), 400),
            ("/nope/predict", {"input": [1]}, 404),
            ("/promised/predict", {"input": [1, 2]}, 400),
            ("/promised/predict", {"input_batch": [[1], [1, 2]]}, 400),
        ):
            assert plane.http.post(path, json=body).status_code == status
        # A query without time, and what is no query.
        soon = oip.InferParameter(int64_param=1)
        refused(
            lambda: plane.inference.ModelInfer(infer_request(double, ROW, timeout=soon), timeout=9)
        )
        assert plane.http.get("/v2/models/nope").status_code == 404
        after = Counter(plane.page().by("reason", name))
        after.subtract(before)
        assert {reason: number for reason, number in after.items() if number} == {
            "ApplicationNotFound": 3,
            "ModelNotFound": 3,
            "InvalidInput": 7,
            "DeadlineExceeded": 1,
        }

    @pytest.mark.transport
    def test_what_is_cancelled_is_counted(self, plane: Plane, napping: str):
        def cancelled() -> float:
            return plane.page().sum("skysail_cancelled_queries_total")

        plane.wait_until_idle(napping)
        before = cancelled()
        request = predict_request(napping, [0.5])
        first = plane.queries.Predict.future(request, timeout=10)
        eventually(
            lambda: plane.page().sum("skysail_replica_batches_in_flight", model=napping) == 1
        )
        calls = [plane.queries.Predict.future(request, timeout=10) for _ in range(3)]
        eventually(lambda: plane.queued_rows(napping) == 3)
        for call in calls:
            call.cancel()
        eventually(lambda: cancelled() - before == 3)
        assert first.result().outcome == query_pb2.OUTCOME_OK
        assert cancelled() - before == 3

    def test_what_is_undeployed_leaves_no_numbers(self, plane: Plane):
        plane.client.deploy(naps, name="leaving", version="1", example=np.zeros((1, 1)))
        request = predict_request("leaving", [0.6])
        under_way = plane.queries.Predict.future(request, timeout=10)
        eventually(lambda: plane.computed_rows("leaving") == 1)
        waiting = plane.queries.Predict.future(request, timeout=10)
        eventually(lambda: plane.queued_rows("leaving") == 1)
        plane.client.undeploy("leaving", force=True)
        # Both are settled when the version is gone already.
        assert waiting.exception().code() is grpc.StatusCode.NOT_FOUND
        assert under_way.result().outcome == query_pb2.OUTCOME_OK

        def is_forgotten() -> bool:
            return "leaving" not in [each.labels.get("model") for each in plane.page().samples]

        eventually(is_forgotten, timeout_s=1, what="nothing is told of it any more")

    def test_cache_counts_hits_and_misses(self, plane: Plane, untuned: str):
        client, model = plane.client, untuned
        client.register_application("cached", slo_ms=20_000)
        client.link("cached", model)
        client.register_application("bypassing", slo_ms=20_000)
        client.link("bypassing", model)
        client.update_application("bypassing", uses_cache=False)
        plane.client.tune(model, **vars(ServingOptions(cache_ttl_s=60)))
        before = plane.computed_rows(model)
        values = [[number, 0.0, 0.5] for number in range(5)]
        for _ in range(3):
            for value in values:
                assert client.predict("cached", value).output[0] == 2 * value[0]
        assert plane.computed_rows(model) - before == 5
        # The same for whoever asks, by whatever door.
        answer = plane.inference.ModelInfer(infer_request(model, np.array(values[4:])), timeout=10)
        assert np.frombuffer(answer.raw_output_contents[0]).tolist() == [8, 0, 1]
        for _ in range(2):
            assert client.predict("bypassing", values[1]).output.tolist() == [2, 0, 1]
        page = plane.page()
        results = {
            name: page.by("result", "skysail_cache_queries_total", application=name, model=model)
            for name in ("cached", "bypassing")
        }
        assert results == {"cached": {"miss": 5, "hit": 10}, "bypassing": {}}
        assert page.sum("skysail_batch_rows_sum", model=model) - before == 7
        assert page.by("outcome", "skysail_queries_total", application="cached") == {"OK": 15}
        plane.client.tune(model, **vars(ServingOptions()))
        assert client.predict("cached", values[0]).output[0] == 0
        assert plane.computed_rows(model) - before == 8

    def test_identical_queries_under_way_are_computed_once(self, plane: Plane, napping: str):
        plane.client.tune(napping, **vars(ServingOptions(policy=PolicyName.EAGER, cache_ttl_s=60)))
        before = plane.computed_rows(napping)
        try:
            found = plane.client.predict_batch(napping, [[0.25]] * 8)
        finally:
            plane.client.tune(napping, **vars(ServingOptions(policy=PolicyName.EAGER)))
        assert [each.output.tolist() for each in found] == [[0.25]] * 8
        assert plane.computed_rows(napping) - before == 1
        results = plane.page().by("result", "skysail_cache_queries_total", model=napping)
        assert results == {"miss": 1, "shared": 7}

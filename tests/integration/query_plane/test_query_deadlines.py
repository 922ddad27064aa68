"""Queries end at their deadline, with a default where there is one."""

import time

import grpc
import numpy as np
import pytest

from skysail_common.rpc.messages import duration
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
    predict_request,
    refused,
)

NAP_S = 0.8
SOON_S = 0.2
LATER_S = 0.5


@pytest.fixture(scope="class")
def promised(plane: Plane, napping: str) -> str:
    plane.client.register_application("on-time", slo_ms=LATER_S * 1000)
    plane.client.link("on-time", napping)
    return "on-time"


@pytest.fixture(scope="class")
def promised_soon(plane: Plane, napping: str) -> str:
    plane.client.register_application("on-time-soon", slo_ms=SOON_S * 1000)
    plane.client.link("on-time-soon", napping)
    return "on-time-soon"


class TestDeadlines:
    @staticmethod
    def check_took(begin: float) -> None:
        # As soon as the sooner bound says, and well before the other would.
        took_s = time.monotonic() - begin
        assert SOON_S - 0.02 <= took_s < LATER_S - 0.1, took_s

    @pytest.mark.transport
    @pytest.mark.parametrize("smallest", ["field", "call", "slo"])
    def test_of_predict(self, plane, promised, promised_soon, smallest):
        field_s = SOON_S if smallest == "field" else LATER_S
        call_s = SOON_S if smallest == "call" else LATER_S
        target = promised_soon if smallest == "slo" else promised
        request = predict_request(target, [NAP_S], timeout=duration(field_s))
        begin = time.monotonic()
        error = refused(lambda: plane.queries.Predict(request, timeout=call_s))
        self.check_took(begin)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if smallest != "call":
            assert "did not answer within 0.2 s" in error.details()
            assert dict(error.trailing_metadata())["shed-reason"] == "expired"

    @pytest.mark.transport
    @pytest.mark.parametrize("smallest", ["parameter", "call", "slo"])
    def test_of_model_infer(self, plane, promised, promised_soon, smallest):
        parameter_s = SOON_S if smallest == "parameter" else LATER_S
        call_s = SOON_S if smallest == "call" else LATER_S
        target = promised_soon if smallest == "slo" else promised
        timeout = oip.InferParameter(int64_param=int(parameter_s * 1e6))
        request = infer_request(target, np.full((1, 1), NAP_S), timeout=timeout)
        # The second time by a plan, which must not forget any of it.
        for _ in range(2):
            begin = time.monotonic()
            error = refused(lambda: plane.inference.ModelInfer(request, timeout=call_s))
            self.check_took(begin)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if smallest != "call":
                assert "did not answer within 0.2 s" in error.details()

    @pytest.mark.parametrize("smallest", ["parameter", "header", "slo"])
    def test_of_rest_v2(self, plane, promised, promised_soon, smallest):
        parameter_s = SOON_S if smallest == "parameter" else LATER_S
        header_s = SOON_S if smallest == "header" else LATER_S
        target = promised_soon if smallest == "slo" else promised
        begin = time.monotonic()
        answer = plane.http.post(
            f"/v2/models/{target}/infer",
            json=infer_body(np.full((1, 1), NAP_S), timeout=int(parameter_s * 1e6)),
            headers={"skysail-timeout-ms": str(header_s * 1000)},
        )
        self.check_took(begin)
        assert answer.status_code == 504
        assert "did not answer within 0.2 s" in answer.json()["error"]

    @pytest.mark.parametrize("smallest", ["header", "slo"])
    def test_of_rest_as_clipper_had_it(self, plane, promised, promised_soon, smallest):
        header_s = SOON_S if smallest == "header" else LATER_S
        target = promised_soon if smallest == "slo" else promised
        begin = time.monotonic()
        answer = plane.http.post(
            f"/{target}/predict",
            json={"input": [NAP_S]},
            headers={"skysail-timeout-ms": str(header_s * 1000)},
        )
        self.check_took(begin)
        assert answer.status_code == 504
        assert "did not answer within 0.2 s" in answer.json()["cause"]

    @pytest.mark.transport
    def test_of_each_query_of_a_stream(self, plane, promised, promised_soon):
        requests = [
            predict_request(promised, [NAP_S], query_id="field", timeout=duration(SOON_S)),
            predict_request(promised_soon, [NAP_S], query_id="slo"),
            predict_request(promised, [NAP_S], query_id="never", timeout=duration(-1)),
        ]
        begin = time.monotonic()
        answers = {each.query_id: each for each in plane.queries.PredictStream(iter(requests))}
        self.check_took(begin)
        assert answers["field"].error.reason == "DeadlineExceeded"
        assert answers["slo"].error.reason == "DeadlineExceeded"
        assert answers["never"].error.reason == "InvalidInput"

    def test_a_query_that_missed_its_deadline_waits_no_longer(self, plane, napping, promised):
        plane.wait_until_idle(napping)
        before = plane.computed_rows(napping)
        first = plane.queries.Predict.future(predict_request(napping, [1.2]), timeout=10)
        eventually(lambda: plane.computed_rows(napping) - before == 1)
        for target in (napping, promised):
            request = predict_request(target, [NAP_S])
            assert refused(lambda r=request: plane.queries.Predict(r, timeout=0.1)).code() is (
                grpc.StatusCode.DEADLINE_EXCEEDED
            )
        eventually(lambda: plane.queued_rows(napping) == 0, timeout_s=0.4)
        assert not first.done()
        assert first.result().outcome == query_pb2.OUTCOME_OK
        assert plane.computed_rows(napping) - before == 1

    @pytest.mark.transport
    def test_what_has_no_time_is_refused_before_the_model_sees_it(self, plane, double):
        before = plane.computed_rows(double)
        soon = oip.InferParameter(int64_param=1)
        error = refused(
            lambda: plane.inference.ModelInfer(infer_request(double, ROW, timeout=soon), timeout=5)
        )
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert dict(error.trailing_metadata())["shed-reason"] == "expired"
        request = predict_request(double, [1.0, 2, 3])
        for timeout_s in (-1, 0):
            error = refused(lambda t=timeout_s: plane.queries.Predict(request, timeout=t))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        headers = {"skysail-timeout-ms": "0.001"}
        answer = plane.http.post(
            f"/v2/models/{double}/infer", json=infer_body(ROW), headers=headers
        )
        assert answer.status_code == 504
        assert plane.computed_rows(double) == before

    @pytest.mark.transport
    @pytest.mark.parametrize("seconds", [0, -1])
    def test_impossible_time_outs_of_predict(self, plane, double, seconds):
        request = predict_request(double, [1.0, 2, 3], timeout=duration(seconds))
        error = refused(lambda: plane.queries.Predict(request, timeout=10))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith("timeout must be greater than 0 and at most a year")

    @pytest.mark.transport
    @pytest.mark.parametrize(
        ("parameter", "message"),
        [
            (oip.InferParameter(int64_param=-1), "expected microseconds >= 0."),
            (oip.InferParameter(string_param="9"), "expected int64_param."),
            (oip.InferParameter(bool_param=True), "expected int64_param."),
        ],
    )
    def test_impossible_time_outs_of_model_infer(self, plane, double, parameter, message):
        request = infer_request(double, ROW, timeout=parameter)
        error = refused(lambda: plane.inference.ModelInfer(request, timeout=10))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "'timeout'" in error.details()
        assert error.details().endswith(message)

    @pytest.mark.parametrize("value", [-1, "9", True, 1.5])
    def test_impossible_time_outs_of_rest_v2(self, plane, double, value):
        body = infer_body(ROW, timeout=value)
        answer = plane.http.post(f"/v2/models/{double}/infer", json=body)
        assert answer.status_code == 400
        assert "'timeout'" in answer.json()["error"]

    @pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "inf", ""])
    def test_impossible_headers(self, plane, double, promised, value):
        headers = {"skysail-timeout-ms": value}
        for path, body, name in (
            (f"/v2/models/{double}/infer", infer_body(ROW), "error"),
            (f"/{promised}/predict", {"input": [0.0]}, "cause"),
        ):
            answer = plane.http.post(f"{path}", json=body, headers=headers)
            assert answer.status_code == 400
            message = "header skysail-timeout-ms must be milliseconds greater than 0"
            assert answer.json()[name] == message

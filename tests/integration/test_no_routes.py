"""A frontend without routes answers "unavailable", not "not found"."""

from collections.abc import Iterator

import grpc
import httpx
import pytest

from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.inference import grpc_service_pb2_grpc as oip_grpc
from skysail_protos.v1 import query_pb2, query_pb2_grpc
from skysail_testing.processes import Service

REASON = "has no routes from management yet"


@pytest.fixture(scope="module")
def bound() -> Iterator[dict[str, str]]:
    ports = [part for name in ("grpc", "http", "metrics") for part in (f"--{name}-port", "0")]
    frontend = Service("skysail_frontend", ["--management-endpoint", "127.0.0.1:1", *ports])
    try:
        yield frontend.wait_ready()
    finally:
        assert frontend.stop() == 0


def test_grpc_answers_unavailable(bound: dict[str, str]):
    with grpc.insecure_channel(bound["grpc"]) as channel:
        inference = oip_grpc.GRPCInferenceServiceStub(channel)
        queries = query_pb2_grpc.QueryServiceStub(channel)
        infer = oip.ModelInferRequest(model_name="m", model_version="1")
        for ask in (
            lambda: inference.ModelInfer(infer, timeout=5),
            lambda: inference.ModelMetadata(oip.ModelMetadataRequest(name="m"), timeout=5),
            lambda: queries.Predict(query_pb2.PredictRequest(target="m"), timeout=5),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                ask()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert REASON in caught.value.details()
        (answer,) = inference.ModelStreamInfer(iter([infer]), timeout=5)
        assert REASON in answer.error_message
        (streamed,) = queries.PredictStream(iter([query_pb2.PredictRequest(target="m")]), timeout=5)
        assert REASON in streamed.error.message
        assert not inference.ServerReady(oip.ServerReadyRequest(), timeout=5).ready
        assert not inference.ModelReady(oip.ModelReadyRequest(name="m"), timeout=5).ready


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v2/models/m/infer", {"inputs": []}),
        ("POST", "/v2/models/m/versions/1/infer", {"inputs": []}),
        ("GET", "/v2/models/m", None),
        ("GET", "/v2/models/m/ready", None),
        ("POST", "/app/predict", {"input": [1]}),
    ],
)
def test_http_answers_503(bound: dict[str, str], method: str, path: str, body: object):
    answer = httpx.request(method, f"http://{bound['http']}{path}", json=body)
    assert answer.status_code == 503
    assert REASON in answer.text

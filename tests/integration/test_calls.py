"""Functions of one input, coroutine functions, and parameters of queries, in real replicas."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

import skysail
from skysail import errors
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.inference import grpc_service_pb2_grpc as oip_grpc
from skysail_testing import call_models
from skysail_testing.clusters import RunningCluster
from skysail_testing.commands import skysail_command
from skysail_testing.processes import eventually

pytestmark = pytest.mark.transport

WAIT_S = 20.0
ONES = np.ones(4)


def test_a_function_of_one_input_fails_only_for_the_query_at_fault(client: skysail.Client):
    client.deploy(call_models.norm, name="norm", example=ONES, batch=False)
    try:
        assert client.predict("norm", [3, 4, 0, 0], timeout_s=WAIT_S).output == 5
        with pytest.raises(errors.ModelFailed, match="ValueError: 666 is not welcome"):
            client.predict("norm", ONES * 666, timeout_s=WAIT_S)
        found = client.predict_batch("norm", [ONES * each for each in range(50)], timeout_s=WAIT_S)
        assert [each.output for each in found] == [2 * each for each in range(50)]
    finally:
        client.undeploy("norm", force=True)


@pytest.fixture
def closed_file(client: skysail.Client, tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "closed"
    client.deploy(
        call_models.Waiter,
        name="waiter",
        example=[[1.0]],
        max_concurrency=16,
        environment={"CLOSED_FILE": str(file)},
    )
    yield file
    if client.describe_model("waiter").versions[0].deployment:
        client.undeploy("waiter", force=True)


async def _answers(cluster: RunningCluster, values: list[float]) -> list[object]:
    async with skysail.AsyncClient(cluster.management, query_endpoint=cluster.grpc) as client:
        return await asyncio.gather(
            *[client.predict("waiter", [value], timeout_s=WAIT_S) for value in values],
            return_exceptions=True,
        )


def test_coroutines_of_a_batch_run_side_by_side_until_the_model_is_closed(
    cluster: RunningCluster, client: skysail.Client, closed_file: Path
):
    values = [1.0] * 30 + [666.0] + [1.0] * 30
    found = asyncio.run(_answers(cluster, values))
    failed = [each for each in found if isinstance(each, BaseException)]
    assert len(failed) == 1
    assert isinstance(failed[0], errors.ModelFailed)
    assert "CancelledError" in str(failed[0])
    side_by_side = [each.output for each in found if isinstance(each, skysail.Prediction)]
    # The first batches may be small; the later ones hold what waits.
    assert 1 < max(np.ravel(side_by_side)) <= 16
    client.undeploy("waiter", force=True)
    assert eventually(lambda: closed_file.exists() and closed_file.read_text() == "closed\n")


def of_every_door(cluster: RunningCluster, threshold: float) -> list[bool]:
    """Return whether 0.4 is over the threshold, by every door."""
    params = {"threshold": threshold}
    with cluster.client() as client:
        sdk = client.predict("over", 0.4, params=params, timeout_s=WAIT_S).output
    request = oip.ModelInferRequest(model_name="over")
    request.inputs.add(name="x", datatype="FP64", shape=[1])
    request.raw_input_contents.append(np.array([0.4]).tobytes())
    request.parameters["threshold"].double_param = threshold
    request.parameters["timeout"].int64_param = 20_000_000
    with grpc.insecure_channel(cluster.grpc) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        unary = stub.ModelInfer(request, timeout=WAIT_S).raw_output_contents[0] == b"\1"
        (streamed,) = stub.ModelStreamInfer(iter([request]), timeout=WAIT_S)
    base = f"http://{cluster.http}"
    tensor = {"name": "x", "datatype": "FP64", "shape": [1], "data": [0.4]}
    v2 = httpx.post(
        f"{base}/v2/models/over/infer", json={"inputs": [tensor], "parameters": params}
    ).json()
    clipper = httpx.post(f"{base}/overs/predict", json={"input": 0.4, "params": params}).json()
    return [
        bool(sdk),
        unary,
        streamed.infer_response.raw_output_contents[0] == b"\1",
        v2["outputs"][0]["data"][0],
        clipper["output"],
    ]


def test_parameters_reach_the_function_by_every_door(
    cluster: RunningCluster, client: skysail.Client
):
    client.deploy(call_models.over, name="over", example=[0.5], application="overs", slo_ms=20_000)
    try:
        assert of_every_door(cluster, 0.3) == [True] * 5
        assert of_every_door(cluster, 0.5) == [False] * 5
        shown = skysail_command(
            *("predict", "over", "0.4", "--params", '{"threshold": 0.3}', "-o", "json"),
            *("--query-endpoint", cluster.grpc, "--endpoint", cluster.management),
        )
        assert json.loads(shown.stdout)["outputs"] == {"output": True}, shown
        found = client.predict_batch("over", [0.1, 0.9], params={"threshold": 0.95})
        assert [bool(each.output) for each in found] == [False, False]
        with pytest.raises(errors.InvalidInput, match="at most 65536; send large values as inputs"):
            client.predict("over", 0.4, params={"text": "x" * 70_000})
    finally:
        client.unregister_application("overs")
        client.undeploy("over", force=True)


def test_a_function_without_parameters_refuses_them(client: skysail.Client):
    client.deploy(lambda x: x, name="plain", example=[0.5])
    try:
        with pytest.raises(errors.InvalidInput, match="its function takes none; deploy one with"):
            client.predict("plain", 0.4, params={"threshold": 1})
    finally:
        client.undeploy("plain", force=True)

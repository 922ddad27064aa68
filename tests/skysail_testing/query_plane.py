"""A cluster with models of known behaviour, and every way to query it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

import skysail
from skysail.query_inputs import read_inputs
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.inference import grpc_service_pb2_grpc as oip_grpc
from skysail_protos.v1 import (
    query_pb2,
    query_pb2_grpc,
)
from skysail_testing import models
from skysail_testing.clusters import (
    RunningCluster,
)
from skysail_testing.metrics_page import Page, scrape
from skysail_testing.processes import eventually

ROW = np.ones((1, 3))
NUM_MESSAGES = 10_000
WIDE = 512
"""Numbers of a message that takes 4 KiB."""
BATCH_S = 0.05
"""What a batch of the model `steady` takes, whatever its size."""


def in_a_script(function):
    """Have a function travel by value: a replica need not import all that tests import."""
    function.__module__ = "__main__"
    return function


@in_a_script
def naps(x):
    """Sleep as long as the largest number says; what is less than nothing is no number."""
    time.sleep(max(0.0, float(x.max())))
    return np.where(x < 0, np.nan, x)


@in_a_script
def blows_up(x):
    """Answer with a text of as many letters as the number says."""
    return ["x" * int(row[0]) for row in x]


@dataclass
class Plane:
    """A cluster, and every way to ask it."""

    cluster: RunningCluster
    client: skysail.Client
    channel: grpc.Channel
    http: httpx.Client

    def __post_init__(self) -> None:
        self.queries = query_pb2_grpc.QueryServiceStub(self.channel)
        self.inference = oip_grpc.GRPCInferenceServiceStub(self.channel)

    def page(self) -> Page:
        return scrape(self.cluster.metrics)

    def computed_rows(self, model: str) -> float:
        return self.page().sum("skysail_batch_rows_sum", model=model)

    def queued_rows(self, model: str) -> float:
        return self.page().sum("skysail_queue_rows", model=model)

    def wait_until_idle(self, model: str) -> None:
        def is_idle() -> bool:
            page = self.page()
            names = ("skysail_queue_rows", "skysail_replica_batches_in_flight")
            return not any(page.sum(name, model=model) for name in names)

        eventually(is_idle, what=f"{model} is idle")


async def deploy_all(cluster: RunningCluster) -> None:
    """Deploy what many tests ask, at the same time."""
    async with skysail.AsyncClient(cluster.management) as client:
        await asyncio.gather(
            client.deploy(models.double, name="double", version="1", example=ROW),
            client.deploy(models.double, name="paired", version="1", example=ROW, num_replicas=2),
            client.deploy(models.double, name="wide", version="1", example=np.ones((1, WIDE))),
            client.deploy(models.fussy, name="counted", version="7", example=ROW),
            client.deploy(naps, name="napping", version="1", example=np.zeros((1, 1))),
            client.deploy(blows_up, name="large", version="1", example=np.ones((1, 1))),
            client.deploy(naps, name="steady", version="1", example=np.full((1, 1), BATCH_S)),
        )


def predict_request(target: str, value: Any, **fields: Any) -> query_pb2.PredictRequest:
    return query_pb2.PredictRequest(target=target, inputs=read_inputs(value).tensors, **fields)


def infer_request(
    model: str, rows: np.ndarray, request_id: str = "", **parameters: Any
) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=model, id=request_id)
    request.inputs.add(name="x", datatype="FP64", shape=rows.shape)
    request.raw_input_contents.append(rows.astype(np.float64).tobytes())
    for name, value in parameters.items():
        request.parameters[name].CopyFrom(value)
    return request


def infer_body(rows: np.ndarray, **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP64", "shape": rows.shape, "data": rows.tolist()}
    return {"inputs": [tensor], "parameters": parameters}


def refused(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value

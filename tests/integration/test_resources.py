"""Processor time of idle processes, and memory of the frontend after many queries."""

import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import psutil
import pytest

import skysail
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.inference import grpc_service_pb2_grpc as oip_grpc
from skysail_protos.v1 import query_pb2, query_pb2_grpc, tensors_pb2
from skysail_testing import models
from skysail_testing.clusters import RunningCluster
from skysail_testing.processes import eventually

WINDOW_S = 5.0
MAX_IDLE_SHARE = 0.01
MAX_OF_STORE = 4
MAX_UNANSWERED = 256
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def doubler(client: skysail.Client) -> str:
    client.deploy(
        models.double, name="doubler", version="1", example=np.ones((1, 3)), num_replicas=2
    )
    return "doubler"


def test_an_idle_process_uses_less_than_a_hundredth_of_a_core(
    cluster: RunningCluster, client: skysail.Client, doubler: str
):
    assert client.predict(doubler, [1, 2, 3]).outcome == "OK"
    supervisor = psutil.Process(cluster.pid)
    processes = {each.pid: each for each in [supervisor, *supervisor.children(recursive=True)]}
    for replica in client.describe_version(doubler).replicas:
        pid = cluster.replica_pid(replica.container_id)
        processes.setdefault(pid, psutil.Process(pid))
    named = {pid: " ".join(each.cmdline()[:5]) for pid, each in processes.items()}
    for part in ("skysail up", "server", "skysail_management", "skysail_frontend", "model_server"):
        assert any(part in name for name in named.values()), named

    def cpu_times_s() -> dict[int, float]:
        return {pid: sum(each.cpu_times()[:2]) for pid, each in processes.items()}

    def shares() -> dict[str, float]:
        before, begin = cpu_times_s(), time.monotonic()
        # This wait is fixed, because the measurement needs a window.
        threading.Event().wait(WINDOW_S)
        after, end = cpu_times_s(), time.monotonic()
        return {named[pid]: (after[pid] - before[pid]) / (end - begin) for pid in before}

    found: dict[str, float] = {}

    def is_idle() -> bool:
        # Work that other tests left may fill the first window.
        found.update(shares())
        # The cost of a wake-up differs between machines and hours. The store wakes up ten times a
        # second, so its share is the yardstick.
        store = max(share for name, share in found.items() if "valkey" in name)
        return max(found.values()) < max(MAX_IDLE_SHARE, MAX_OF_STORE * store)

    try:
        eventually(is_idle, timeout_s=2 * WINDOW_S)
    except AssertionError:
        raise AssertionError(f"not idle: {found}") from None


def ask_many(cluster: RunningCluster, model: str, number: int) -> None:
    """Send distinct queries, half on a stream of each gRPC API."""
    with grpc.insecure_channel(cluster.grpc) as channel:
        _ask_on(
            query_pb2_grpc.QueryServiceStub(channel).PredictStream, _queries(model), number // 2
        )
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        _ask_on(stub.ModelStreamInfer, _infer_requests(model), number // 2)


def _queries(model: str) -> Iterator[query_pb2.PredictRequest]:
    tensor = tensors_pb2.Tensor(name="x", datatype=tensors_pb2.DATA_TYPE_FP64, shape=[1, 3])
    request = query_pb2.PredictRequest(target=model, inputs=[tensor])
    for data in _rows():
        request.query_id, request.inputs[0].data = data.hex(), data
        yield request


def _infer_requests(model: str) -> Iterator[oip.ModelInferRequest]:
    request = oip.ModelInferRequest(model_name=model, raw_input_contents=[b""])
    request.inputs.add(name="x", datatype="FP64", shape=[1, 3])
    for data in _rows():
        request.id, request.raw_input_contents[0] = data.hex(), data
        yield request


def _rows() -> Iterator[bytes]:
    row = np.random.default_rng().random(3)
    while True:
        row += 1
        yield row.tobytes()


def _ask_on(
    method: grpc.StreamStreamMultiCallable, messages: Iterator[object], number: int
) -> None:
    room = threading.Semaphore(MAX_UNANSWERED)

    def bounded() -> Iterator[object]:
        for _ in range(number):
            room.acquire()
            yield next(messages)

    num_answers = 0
    for answer in method(bounded()):
        assert not getattr(answer, "error_message", "")
        num_answers += 1
        room.release()
    assert num_answers == number


def grown_bytes(cluster: RunningCluster, model: str, warm_up: int, number: int) -> int:
    """Return the growth of the frontend's memory over a number of queries."""
    frontend = psutil.Process(cluster.service_pid("skysail_frontend"))
    ask_many(cluster, model, warm_up)
    before = frontend.memory_info().rss
    ask_many(cluster, model, number)
    grown = frontend.memory_info().rss - before
    print(f"{grown / MIB:.2f} MiB more after {number} queries")
    return grown


def test_queries_do_not_leak_memory(cluster: RunningCluster, doubler: str):
    # The limit exceeds the proportional share of 5 MiB, because allocations come in large pieces.
    assert grown_bytes(cluster, doubler, 5_000, 20_000) < 1 * MIB


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_300_000_queries_do_not_leak_memory(cluster: RunningCluster, doubler: str):
    assert grown_bytes(cluster, doubler, 30_000, 300_000) < 5 * MIB

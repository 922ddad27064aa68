"""A frontend with several worker processes, which share addresses and a metrics page."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import grpc
import httpx
import numpy as np
import psutil
import pytest

from skysail.query_inputs import read_inputs
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.inference import grpc_service_pb2_grpc as oip_grpc
from skysail_protos.v1 import query_pb2, query_pb2_grpc
from skysail_testing import models
from skysail_testing.clusters import RunningCluster, start_cluster
from skysail_testing.commands import skysail_command
from skysail_testing.metrics_page import scrape
from skysail_testing.processes import eventually
from skysail_testing.traffic import traffic

ROW = np.ones((1, 3))


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A cluster whose frontend has two workers."""
    data_dir = tmp_path_factory.mktemp("w")
    cluster = start_cluster(data_dir, "--workers", "2", "--log-level", "info")
    try:
        with cluster.client() as client:
            client.deploy(models.double, name="double", version="1", example=ROW)
        yield cluster
    finally:
        # The last test stops the cluster itself.
        if psutil.pid_exists(cluster.pid):
            stopped = skysail_command("down", "--data-dir", str(data_dir))
            assert stopped.returncode == 0, stopped.stderr


@dataclass
class Worker:
    pid: int
    metrics_port: int
    num_clients: int
    """Connections to the gRPC port."""


def workers_of(cluster: RunningCluster) -> list[Worker]:
    """Return the workers that listen on the ports of a cluster."""
    grpc_port, http_port = (int(each.rpartition(":")[2]) for each in (cluster.grpc, cluster.http))
    found = []
    for process in psutil.Process(cluster.service_pid("skysail_frontend")).children():
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        listening = {each.laddr.port for each in connections if each.status == "LISTEN"}
        others = listening - {grpc_port, http_port}
        if len(others) == 1 and len(listening) == 3:
            clients = [
                each
                for each in connections
                if each.status == "ESTABLISHED" and each.laddr.port == grpc_port
            ]
            found.append(Worker(process.pid, others.pop(), len(clients)))
    return found


def test_all_workers_answer_and_one_page_has_their_metrics(working: RunningCluster):
    request = query_pb2.PredictRequest(target="double", inputs=read_inputs([1.0, 2, 3]).tensors)
    unknown = query_pb2.PredictRequest(target="nope", inputs=read_inputs([1.0]).tensors)
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 1, 1]}

    def ask_grpc(_: int) -> int:
        # Channels to one address share a connection unless this option is set.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(working.grpc, options) as channel:
            stub = query_pb2_grpc.QueryServiceStub(channel)
            answers = [stub.Predict(request, timeout=10) for _ in range(5)]
            with pytest.raises(grpc.RpcError):
                stub.Predict(unknown, timeout=10)
        return sum(each.outcome == query_pb2.OUTCOME_OK for each in answers)

    def ask_http(_: int) -> int:
        with httpx.Client(base_url=f"http://{working.http}", verify=False) as client:
            body = {"inputs": [tensor]}
            answers = [client.post("/v2/models/double/infer", json=body) for _ in range(5)]
            client.post("/v2/models/nope/infer", json=body)
        return sum(each.json()["outputs"][0]["data"] == [2, 2, 2] for each in answers)

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(ask_grpc, range(32))) + sum(pool.map(ask_http, range(32)))
    assert answered == 320
    page = scrape(working.metrics)
    assert page.by("outcome", "skysail_queries_total", model="double") == {"OK": 320}
    assert page.sum("skysail_query_latency_seconds_count", model="double") == 320
    assert page.sum("skysail_batch_rows_sum", model="double") == 320
    parts = [scrape(f"127.0.0.1:{worker.metrics_port}") for worker in workers_of(working)]
    counts = [part.sum("skysail_queries_total", model="double") for part in parts]
    refusals = [part.sum("skysail_refused_queries_total") for part in parts]
    assert sum(refusals) == page.sum("skysail_refused_queries_total") == 64
    assert min(refusals) > 0
    assert len(counts) == 2
    assert sum(counts) == 320
    assert min(counts) > 0
    by_worker = page.by("worker", "skysail_queries_total", model="double")
    assert by_worker.keys() == {"0", "1"}
    assert sorted(by_worker.values()) == sorted(counts)
    # Each worker is linked to the replica.
    ready = page.by("worker", "skysail_replica_ready", model="double")
    assert ready == {"0": 1, "1": 1}
    assert page.by("worker", "process_start_time_seconds").keys() == {"0", "1"}


class CounterIncrease:
    """The increase of a counter, as Prometheus computes it: each decrease is a reset."""

    def __init__(self, cluster: RunningCluster, name: str, **labels: str) -> None:
        self._cluster = cluster
        self._name = name
        self._labels = labels
        self._last: dict[frozenset[tuple[str, str]], float] = {}
        self.total = 0.0
        self.look()
        self.total = 0.0

    def look(self) -> dict[str, float]:
        """Scrape once; return the values by worker."""
        page = scrape(self._cluster.metrics)
        for sample in page.samples:
            if sample.name == self._name and self._labels.items() <= sample.labels.items():
                key = frozenset(sample.labels.items())
                last = self._last.get(key, 0.0)
                self.total += sample.value - (last if sample.value >= last else 0.0)
                self._last[key] = sample.value
        return page.by("worker", self._name, **self._labels)


def test_a_restarted_worker_does_not_inflate_counters(working: RunningCluster):
    with ExitStack() as stack:
        clients = [stack.enter_context(working.client()) for _ in range(16)]

        def ask_all() -> int:
            return sum(client.predict("double", [1, 2, 3]).outcome == "OK" for client in clients)

        assert ask_all() == 16
        queries = CounterIncrease(working, "skysail_queries_total", model="double", outcome="OK")
        before = queries.look()
        assert set(before) == {"0", "1"}
        victim = workers_of(working)[0]
        os.kill(victim.pid, signal.SIGKILL)
        seen: list[dict[str, float]] = []

        def is_back() -> bool:
            seen.append(queries.look())
            workers = workers_of(working)
            return len(workers) == 2 and victim.pid not in [each.pid for each in workers]

        eventually(is_back, what="the worker was started again")
        (survivor,) = [worker for worker in before if seen[-1].get(worker) == before[worker]]
        assert [each[survivor] for each in seen] == [before[survivor]] * len(seen)
        assert queries.total == 0
        assert ask_all() == 16
        queries.look()
        assert queries.total == 16


def test_a_killed_worker_is_replaced_and_loses_no_query(working: RunningCluster):
    with ExitStack() as stack:
        clients = [stack.enter_context(working.client()) for _ in range(6)]
        for client in clients:
            client.predict("double", [1, 2, 3])
        victim = max(workers_of(working), key=lambda worker: worker.num_clients)
        assert victim.num_clients > 0
        seen = [
            stack.enter_context(traffic(client, "double", [1, 2, 3], callers=1))
            for client in clients
        ]
        os.kill(victim.pid, signal.SIGKILL)
        for each in seen:
            each.wait_for_more(30)
    for each in seen:
        assert set(each.outcomes) == {"OK"}, each.problems[:3]

    def is_back() -> bool:
        workers = workers_of(working)
        return len(workers) == 2 and victim.pid not in [each.pid for each in workers]

    eventually(is_back, what="the worker was started again")


def test_a_worker_that_drains_under_load_loses_no_call(
    working: RunningCluster, request: pytest.FixtureRequest
):
    """The clients are plain gRPC clients without retries of Skysail."""
    message = oip.ModelInferRequest(model_name="double", raw_input_contents=[ROW.tobytes()])
    message.inputs.add(name="x", datatype="FP64", shape=[1, 3])
    answered: Counter[bytes] = Counter()
    problems: list[str] = []
    done = threading.Event()
    room = threading.Condition()

    def ask() -> None:
        # Channels to one address share a connection unless this option is set.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(working.grpc, options) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            while not done.is_set():
                try:
                    answer = stub.ModelInfer(message, timeout=20).raw_output_contents[0]
                except grpc.RpcError as error:
                    problems.append(str(error))
                    return
                with room:
                    answered[answer] += 1
                    room.notify_all()

    def wait_for_more(count: int) -> None:
        goal = answered.total() + count
        with room:
            assert room.wait_for(lambda: problems or answered.total() >= goal, 20)

    with ThreadPoolExecutor(12) as pool:
        asking = [pool.submit(ask) for _ in range(12)]
        try:
            wait_for_more(200)
            victim = max(workers_of(working), key=lambda worker: worker.num_clients)
            assert victim.num_clients > 0
            os.kill(victim.pid, signal.SIGTERM)
            _, alive = psutil.wait_procs([psutil.Process(victim.pid)], timeout=20)
            assert not alive
            wait_for_more(500)
        finally:
            done.set()
        for each in asking:
            each.result(30)
    if request.config.getoption("--transport") == "grpc":
        # A stopping server of grpc.aio cancels calls that arrive at that moment.
        problems = [problem for problem in problems if "StatusCode.CANCELLED" not in problem]
    assert problems == []
    assert set(answered) == {(2 * ROW).tobytes()}

    def are_two() -> bool:
        return len(workers_of(working)) == 2

    eventually(are_two, what="another worker took its place")


def test_a_frozen_worker_is_replaced(working: RunningCluster):
    with ExitStack() as stack:
        clients = [stack.enter_context(working.client()) for _ in range(6)]
        for client in clients:
            client.predict("double", [1, 2, 3])
        seen = [
            stack.enter_context(traffic(client, "double", [1, 2, 3], callers=1, pause_s=0.02))
            for client in clients
        ]
        victim = max(workers_of(working), key=lambda worker: worker.num_clients)
        assert victim.num_clients > 0
        os.kill(victim.pid, signal.SIGSTOP)

        def is_replaced() -> bool:
            workers = workers_of(working)
            return len(workers) == 2 and victim.pid not in [each.pid for each in workers]

        eventually(is_replaced, 40, "another worker took its place")
        for each in seen:
            each.wait_for_more(10)
    for each in seen:
        assert set(each.outcomes) == {"OK"}, each.problems[:3]


def test_workers_outlive_their_parent_until_its_successor_is_ready(working: RunningCluster):
    """Each query uses a new connection, because an unaccepted one would show only there."""
    request = query_pb2.PredictRequest(target="double", inputs=read_inputs([1.0, 2, 3]).tensors)
    done = threading.Event()
    problems: list[str] = []
    answered = Counter[str]()

    def ask() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        while not done.is_set():
            with grpc.insecure_channel(working.grpc, options) as channel:
                stub = query_pb2_grpc.QueryServiceStub(channel)
                try:
                    answered[stub.Predict(request, timeout=20).explanation or "OK"] += 1
                except grpc.RpcError as error:
                    problems.append(str(error))
                    return
            done.wait(0.01)

    before = {worker.pid for worker in workers_of(working)}
    assert len(before) == 2
    parent = psutil.Process(working.service_pid("skysail_frontend"))
    orphans = [psutil.Process(pid) for pid in before]
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            parent.kill()

            def has_successor() -> bool:
                with suppress(AssertionError, psutil.Error):
                    workers = {worker.pid for worker in workers_of(working)}
                    return len(workers) == 2 and not workers & before
                return False

            eventually(has_successor, what="another parent took its place")
            _, alive = psutil.wait_procs(orphans, timeout=20)
            assert not alive
            goal = answered.total() + 50
            eventually(lambda: problems or answered.total() >= goal, what="more are answered")
        finally:
            done.set()
        for each in asking:
            each.result(30)
    assert problems == []
    assert set(answered) == {"OK"}
    assert scrape(working.metrics).by("worker", "skysail_build_info") == {"0": 1, "1": 1}


def test_down_leaves_no_process(working: RunningCluster):
    supervisor = psutil.Process(working.pid)
    with working.client() as client:
        (replica,) = client.describe_version("double").replicas
    family = [
        supervisor,
        *supervisor.children(recursive=True),
        psutil.Process(working.replica_pid(replica.container_id)),
    ]
    frontend = working.service_pid("skysail_frontend")
    assert len([each for each in family if each.is_running() and each.ppid() == frontend]) == 2
    stopped = skysail_command("down", "--data-dir", str(working.data_dir))
    assert stopped.returncode == 0, stopped.stderr
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, alive
    log = (working.data_dir / "logs" / "cluster.log").read_text()
    assert "unhandled exception" not in log, log
    assert "background task failed" not in log, log

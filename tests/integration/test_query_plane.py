"""Queries as frontends meet them: counted, bounded in time, refused, streamed, given up."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as StatusMessage

import skysail
from skysail import errors
from skysail.predictions import encode_input
from skysail_common.rpc.messages import duration
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.inference import grpc_service_pb2_grpc as oip_grpc
from skysail_protos.v1 import (
    management_pb2,
    management_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
    routing_pb2,
)
from skysail_testing import models
from skysail_testing.clusters import (
    RunningCluster,
    running_cluster,
)
from skysail_testing.metrics_page import Page, scrape
from skysail_testing.processes import eventually
from skysail_testing.traffic import traffic

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


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running_cluster(tmp_path_factory.mktemp("q"), "--log-level", "info") as cluster:
        asyncio.run(deploy_all(cluster))
        # Answers of any size are taken: the server's limit is what counts.
        options = [("grpc.max_receive_message_length", -1)]
        with (
            cluster.client() as client,
            grpc.insecure_channel(cluster.grpc, options) as channel,
            httpx.Client(base_url=f"http://{cluster.http}", verify=False, timeout=20) as http,
        ):
            yield Plane(cluster, client, channel, http)


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


@pytest.fixture(scope="module")
def double() -> str:
    return "double"


@pytest.fixture
def untuned(plane: Plane, double: str) -> Iterator[str]:
    """A model whose options a test may change."""
    yield double
    plane.client.tune(double, **vars(ServingOptions()))


@pytest.fixture(scope="module")
def napping(plane: Plane) -> str:
    """A model that takes as long as it is told, and whose queries are never given up before."""
    plane.client.tune("napping", **vars(ServingOptions(policy=PolicyName.EAGER)))
    return "napping"


@pytest.fixture(scope="module")
def steady(plane: Plane) -> str:
    """A model that answers one row at a time, 20 in a second."""
    plane.client.tune("steady", **vars(ServingOptions(max_batch_size=1)))
    plane.client.register_application("promised", slo_ms=200)
    plane.client.link("promised", "steady")
    plane.client.register_application("promised-default", default_output=[-1], slo_ms=200)
    plane.client.link("promised-default", "steady")
    return "steady"


def predict_request(target: str, value: Any, **fields: Any) -> query_pb2.PredictRequest:
    return query_pb2.PredictRequest(target=target, inputs=encode_input(value), **fields)


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


class TestShedding:
    NUM_CALLS = 64

    def burst(self, plane: Plane, target: str) -> list[Any]:
        """Ask many times at once and return the calls, which have ended."""
        request = predict_request(target, [BATCH_S])
        calls = [plane.queries.Predict.future(request, timeout=10) for _ in range(self.NUM_CALLS)]
        for call in calls:
            # Waits for the end, whatever it is.
            call.exception()
        plane.wait_until_idle("steady")
        return calls

    def check_refused(self, call: Any, reasons: set[str]) -> None:
        trailers = dict(call.trailing_metadata())
        assert trailers["shed-reason"] in reasons
        assert 0 <= int(trailers["queue-depth"]) <= self.NUM_CALLS
        assert 1 <= int(trailers["retry-after-ms"]) <= 60_000
        status = StatusMessage.FromString(trailers["grpc-status-details-bin"])
        assert status.code == call.code().value[0]
        assert status.message == call.details()
        (detail,) = status.details
        retry = RetryInfo()
        assert detail.Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == int(trailers["retry-after-ms"])

    def test_missed_deadlines_are_counted_as_callers_see_them(self, plane, steady):
        """By an outside counter: whose timer ends a call, the caller's or the server's, is chance."""

        def counted() -> Counter[str]:
            page = plane.page()
            found = Counter(page.by("outcome", "skysail_queries_total", model=steady))
            found["cancelled"] = page.sum("skysail_cancelled_queries_total", model=steady)
            found["late"] = page.sum("skysail_late_rows_total", model=steady)
            return found

        def ask(_: int) -> str:
            try:
                plane.inference.ModelInfer(request, timeout=0.12)
            except grpc.RpcError as error:
                return error.code().name
            return "OK"

        plane.client.tune(steady, **vars(ServingOptions(max_batch_size=1, policy=PolicyName.EAGER)))
        request = infer_request(steady, np.full((1, 1), BATCH_S))
        before = counted()
        with ThreadPoolExecutor(8) as callers:
            seen = Counter(callers.map(ask, range(100)))
        plane.wait_until_idle(steady)
        plane.client.tune(steady, **vars(ServingOptions(max_batch_size=1)))
        after = counted()
        after.subtract(before)
        assert seen["DEADLINE_EXCEEDED"] >= 20, seen
        # A busy machine refuses a few at the door, which counts them by no model, and brings a few
        # calls so late that their callers give up long before the deadline that the server knows.
        difference = after["DEADLINE_EXCEEDED"] - seen["DEADLINE_EXCEEDED"]
        assert abs(difference) <= 20, (seen, after)
        assert after["cancelled"] <= 20, (seen, after)
        assert after["late"] >= 0.8 * after["DEADLINE_EXCEEDED"], (seen, after)

    @pytest.mark.transport
    def test_what_cannot_be_in_time_is_refused_and_told_when_to_retry(self, plane, steady):
        before = plane.page()
        calls = self.burst(plane, "promised")
        codes = Counter(call.code() for call in calls)
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
        assert 1 <= codes[grpc.StatusCode.OK] <= 5
        for call in calls:
            if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                assert "model 'steady:1'" in call.details()
                self.check_refused(call, {"hopeless", "expired"})
        after, name = plane.page(), "skysail_sheds_total"
        sheds = after.sum(name, model=steady) - before.sum(name, model=steady)
        assert sheds == codes[grpc.StatusCode.DEADLINE_EXCEEDED]
        name, labels = "skysail_queries_total", {"application": "promised"}
        outcomes = Counter(after.by("outcome", name, **labels))
        outcomes.subtract(before.by("outcome", name, **labels))
        assert outcomes == {"OK": codes[grpc.StatusCode.OK], "DEADLINE_EXCEEDED": sheds}

    @pytest.fixture
    def short_queue(self, plane: Plane, steady: str) -> Iterator[None]:
        # Nothing is hopeless by this policy.
        options = ServingOptions(policy=PolicyName.EAGER, max_batch_size=1, max_queue_size=2)
        plane.client.tune(steady, **vars(options))
        yield
        plane.client.tune(steady, **vars(ServingOptions(max_batch_size=1)))

    @pytest.mark.transport
    def test_what_finds_the_queue_full_is_refused(self, plane, steady, short_queue):
        # By the model's own name, without an SLO: there is time enough, but no room.
        calls = self.burst(plane, steady)
        codes = Counter(call.code() for call in calls)
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        # Those that the queue holds: the others may come before the first is under way.
        assert codes[grpc.StatusCode.OK] >= 2
        for call in calls:
            if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                assert "Exceeds maximum queue size: 2 rows are queued" in call.details()
                self.check_refused(call, {"queue_full"})
        request = infer_request(steady, np.full((1, 1), BATCH_S))
        oip_calls = [plane.inference.ModelInfer.future(request, timeout=10) for _ in range(16)]
        found = [call for call in oip_calls if call.exception() is not None]
        assert found
        for call in found:
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            self.check_refused(call, {"queue_full"})

    def post_all(self, plane: Plane, path: str, body: Any) -> list[httpx.Response]:
        async def post_all() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=self.NUM_CALLS)
            async with httpx.AsyncClient(
                base_url=plane.http.base_url, verify=False, timeout=10, limits=limits
            ) as client:
                posts = [client.post(path, json=body) for _ in range(self.NUM_CALLS)]
                return list(await asyncio.gather(*posts))

        answers = asyncio.run(post_all())
        plane.wait_until_idle("steady")
        return answers

    @pytest.mark.parametrize("door", ["/v2/models/promised/infer", "/promised/predict"])
    def test_rest_tells_when_to_retry(self, plane, steady, door):
        body = infer_body(np.full((1, 1), BATCH_S)) if "infer" in door else {"input": [BATCH_S]}
        answers = self.post_all(plane, door, body)
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) == {200, 504}
        for answer in answers:
            if answer.status_code == 504:
                assert answer.headers["shed-reason"] in {"hopeless", "expired"}
                assert int(answer.headers["retry-after"]) >= 1
                assert int(answer.headers["retry-after-ms"]) >= 1
                text = answer.json()["error" if "infer" in door else "cause"]
                assert "model 'steady:1'" in text

    def test_rest_tells_of_a_full_queue(self, plane, steady, short_queue):
        body = infer_body(np.full((1, 1), BATCH_S))
        answers = self.post_all(plane, f"/v2/models/{steady}/infer", body)
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["shed-reason"] == "queue_full"
                assert int(answer.headers["retry-after"]) >= 1
                assert "Exceeds maximum queue size" in answer.json()["error"]

    def test_with_a_default_output_everybody_is_answered_in_time(self, plane, steady):
        calls = self.burst(plane, "promised-default")
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}
        results = [call.result() for call in calls]
        outcomes = Counter(query_pb2.Outcome.Name(each.outcome) for each in results)
        assert set(outcomes) == {"OUTCOME_OK", "OUTCOME_DEFAULT_DEADLINE"}
        for each in results:
            is_default = each.outcome == query_pb2.OUTCOME_DEFAULT_DEADLINE
            expected = [-1.0] if is_default else [BATCH_S]
            assert each.is_default is is_default
            assert np.frombuffer(each.outputs[0].data).tolist() == expected
            assert each.timings.total.ToMilliseconds() < 400

    def test_rest_gives_the_default_output_too(self, plane, steady):
        answers = self.post_all(plane, "/promised-default/predict", {"input": [BATCH_S]})
        assert {answer.status_code for answer in answers} == {200}
        outputs = Counter((each.json()["default"], *each.json()["output"]) for each in answers)
        assert set(outputs) == {(False, BATCH_S), (True, -1)}

    def test_a_full_queue_gives_the_default_output(self, plane, steady, short_queue):
        calls = self.burst(plane, "promised-default")
        outcomes = Counter(query_pb2.Outcome.Name(call.result().outcome) for call in calls)
        assert set(outcomes) <= {
            "OUTCOME_OK", "OUTCOME_DEFAULT_OVERLOADED", "OUTCOME_DEFAULT_DEADLINE",
        }  # fmt: skip
        assert min(outcomes["OUTCOME_OK"], outcomes["OUTCOME_DEFAULT_OVERLOADED"]) > 0
        body = infer_body(np.full((1, 1), BATCH_S))
        answers = self.post_all(plane, "/v2/models/promised-default/infer", body)
        assert {answer.status_code for answer in answers} == {200}
        found = {each.json().get("parameters", {}).get("skysail_outcome") for each in answers}
        assert "DEFAULT_OVERLOADED" in found


@pytest.mark.transport
class TestStall:
    STALL_S = 2.0

    @pytest.mark.parametrize("victim", [0, 1])
    def test_no_query_is_lost_that_the_other_replica_can_answer(self, plane, victim):
        client = plane.client

        def ask(_: int) -> str:
            try:
                return client.predict("paired", [1, 2, 3], timeout_s=3).outcome
            except errors.SkysailError as error:
                return repr(error)

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(ask, range(50))) == {"OK"}
            replicas = client.describe_version("paired").replicas
            container = replicas[victim].container_id
            pid = plane.cluster.replica_pid(container)
            os.kill(pid, signal.SIGSTOP)
            try:
                begin = time.monotonic()
                outcomes: Counter[str] = Counter()
                while time.monotonic() - begin < self.STALL_S:
                    outcomes.update(pool.map(ask, range(50)))
                # All have ended before it goes on: what it holds is answered by the other.
                page = plane.page()
            finally:
                os.kill(pid, signal.SIGCONT)
            assert set(outcomes) == {"OK"}, outcomes
            held = page.by("container", "skysail_replica_batches_in_flight", model="paired")
            assert held[container] >= 1
            # What it answers too late disturbs nobody.
            plane.wait_until_idle("paired")
            assert set(pool.map(ask, range(50))) == {"OK"}
        assert client.describe_version("paired").replicas == replicas
        assert plane.page().sum("skysail_replica_ready", model="paired") == 2


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


@pytest.fixture(scope="class")
def wide(plane: Plane) -> str:
    for _ in range(100):
        plane.client.predict("wide", np.ones(WIDE))
    return "wide"


@pytest.mark.transport
class TestStreams:
    @pytest.mark.parametrize("door", ["PredictStream", "ModelStreamInfer"])
    def test_a_client_that_reads_nothing_costs_no_memory_and_gets_all(self, plane, wide, door):
        frontend = psutil.Process(plane.cluster.service_pid("skysail_frontend"))
        num_sent = 0

        def messages() -> Iterator[Any]:
            nonlocal num_sent
            value = np.ones((1, WIDE))
            # One message, which is serialized before it is changed.
            asked, inferred = predict_request(wide, value[0]), infer_request(wide, value)
            for number in range(NUM_MESSAGES):
                value[0, 0] = number
                num_sent += 1
                if door == "PredictStream":
                    asked.query_id, asked.inputs[0].data = str(number), value.tobytes()
                    yield asked
                else:
                    inferred.id, inferred.raw_input_contents[0] = str(number), value.tobytes()
                    yield inferred

        before = plane.page().sum("skysail_queries_total", model=wide)
        stub = plane.queries if door == "PredictStream" else plane.inference
        rss = frontend.memory_info().rss
        call = getattr(stub, door)(messages())

        last, since = -1, time.monotonic()

        def is_stuck() -> bool:
            nonlocal last, since
            if num_sent != last:
                last, since = num_sent, time.monotonic()
            return time.monotonic() - since > 0.5

        eventually(is_stuck, what="the frontend reads no more")
        answered = plane.page().sum("skysail_queries_total", model=wide) - before
        # As many as a stream may hold, and what fits into the windows of the transport.
        assert 900 <= answered <= num_sent < NUM_MESSAGES / 2
        numbers = set()
        for answer in call:
            if door == "PredictStream":
                tensor = answer.response.outputs[0].data
                number = int(answer.query_id)
            else:
                assert not answer.error_message
                tensor = answer.infer_response.raw_output_contents[0]
                number = int(answer.infer_response.id)
            assert np.frombuffer(tensor, count=1)[0] == 2 * number
            numbers.add(number)
        assert num_sent == NUM_MESSAGES
        assert len(numbers) == NUM_MESSAGES
        assert call.code() is grpc.StatusCode.OK
        grown = frontend.memory_info().rss - rss
        assert grown < 50 * 1024 * 1024, grown

    def test_a_client_that_dies_leaves_nothing_that_waits(self, plane, steady):
        program = f"""
            import sys, time, grpc
            from skysail.predictions import encode_input
            from skysail_protos.v1 import query_pb2, query_pb2_grpc
            def requests():
                for number in range(200):
                    yield query_pb2.PredictRequest(
                        query_id=str(number), target="{steady}", inputs=encode_input([{BATCH_S}]))
                while True:
                    time.sleep(60)
            channel = grpc.insecure_channel(sys.argv[1])
            for answer in query_pb2_grpc.QueryServiceStub(channel).PredictStream(requests()):
                pass
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), plane.cluster.grpc]
        )
        try:
            eventually(lambda: plane.queued_rows(steady) > 150, what="its queries wait")
        finally:
            process.kill()
            process.wait()
        # Answering all of them would take ten seconds.
        eventually(lambda: plane.queued_rows(steady) == 0, timeout_s=3)
        plane.wait_until_idle(steady)

    def test_a_stream_that_is_cancelled_leaves_nothing_that_waits(self, plane, steady):
        ended = threading.Event()

        def requests() -> Iterator[oip.ModelInferRequest]:
            for number in range(200):
                yield infer_request(steady, np.full((1, 1), BATCH_S), str(number))
            ended.wait(30)

        call = plane.inference.ModelStreamInfer(requests())
        try:
            assert next(call).infer_response.outputs[0].name == "output"
            eventually(lambda: plane.queued_rows(steady) > 150, what="its queries wait")
        finally:
            call.cancel()
            ended.set()
        eventually(lambda: plane.queued_rows(steady) == 0, timeout_s=3)
        plane.wait_until_idle(steady)

    def test_an_http_client_that_leaves_takes_its_query_with_it(self, plane, napping):
        plane.client.register_application("left", slo_ms=20_000)
        plane.client.link("left", napping)
        plane.wait_until_idle(napping)
        before = plane.computed_rows(napping)
        first = plane.queries.Predict.future(predict_request(napping, [1.0]), timeout=10)
        eventually(lambda: plane.computed_rows(napping) - before == 1)
        host, _, port = plane.cluster.http.partition(":")
        leaving = []
        for path, body in (
            (
                f"/v2/models/{napping}/infer",
                b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [5]}]}',
            ),
            ("/left/predict", b'{"input": [5]}'),
            ("/left/predict", b'{"input_batch": [[5], [6]]}'),
        ):
            connection = socket.create_connection((host, int(port)))
            head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            leaving.append(connection)
        eventually(lambda: plane.queued_rows(napping) == 4, what="all wait")
        for connection in leaving:
            connection.close()
        eventually(lambda: plane.queued_rows(napping) == 0, what="none waits")
        assert not first.done()
        assert first.result().outcome == query_pb2.OUTCOME_OK
        plane.wait_until_idle(napping)
        assert plane.computed_rows(napping) - before == 1


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


OPTIONS = [
    ServingOptions(policy=PolicyName.HYBRID),
    ServingOptions(policy=PolicyName.FIXED, max_queue_delay_s=0.002, max_batch_size=8),
    ServingOptions(policy=PolicyName.AIMD, max_queue_delay_s=0.001),
    ServingOptions(policy=PolicyName.QUANTILE),
    ServingOptions(policy=PolicyName.EAGER, priority_step_s=0.5),
    ServingOptions(max_batch_size=32, preferred_batch_sizes=(4, 8), max_queue_delay_s=0.001),
    ServingOptions(max_batch_size=1, max_queue_size=500, cache_ttl_s=1.5),
]


class TestTuning:
    def test_options_are_changed_under_traffic_without_losing_a_query(self, plane, untuned):
        client = plane.client
        assert {options.policy for options in OPTIONS} == set(PolicyName)
        replicas = client.describe_version(untuned).replicas
        with traffic(client, untuned, [1, 2, 3], callers=4) as seen:
            for options in OPTIONS:
                assert client.tune(untuned, **vars(options)) == options
                assert client.describe_version(untuned).deployment.serving == options
                rows = np.arange(90.0).reshape(30, 3)
                found = client.predict_batch(untuned, rows)
                assert np.array_equal([each.output for each in found], rows * 2)
                seen.wait_for_more(20)
        assert set(seen.outcomes) == {"OK"}, seen.problems[:3]
        assert client.describe_version(untuned).replicas == replicas

    def test_options_hold_once_they_are_answered(self, plane, untuned):
        for number in range(65, 85):
            plane.client.tune(untuned, **vars(ServingOptions(max_queue_size=number)))
            request = infer_request(untuned, np.ones((number, 3)))
            assert plane.inference.ModelInfer(request, timeout=10).outputs[0].shape[0] == number

    def test_the_policy_decides_about_batches(self, plane, untuned):
        def reasons() -> dict[str, float]:
            return plane.page().by("reason", "skysail_dispatches_total", model=untuned)

        delay_s = 0.1
        for options, reason in (
            (ServingOptions(policy=PolicyName.EAGER), "eager"),
            (ServingOptions(policy=PolicyName.FIXED, max_queue_delay_s=delay_s), "delay"),
            (ServingOptions(policy=PolicyName.FIXED, max_batch_size=1), "full"),
            (ServingOptions(policy=PolicyName.HYBRID), "single_replica"),
        ):
            plane.client.tune(untuned, **vars(options))
            before = reasons()
            prediction = plane.client.predict(untuned, [1, 2, 3])
            after = reasons()
            changed = {name for name in after if after[name] != before.get(name, 0)}
            if reason == "single_replica":
                # Or what the present rate makes of it.
                assert changed <= {"single_replica", "target", "full"}
            else:
                assert changed == {reason}
            if reason == "delay":
                assert delay_s <= prediction.timings.queue_s < 0.5

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("max_batch_size", ServingOptions(max_batch_size=0)),
            ("max_batch_size", ServingOptions(max_batch_size=65_537)),
            ("preferred_batch_sizes", ServingOptions(preferred_batch_sizes=(8, 4))),
            ("preferred_batch_sizes", ServingOptions(preferred_batch_sizes=(65,))),
            ("max_queue_size", ServingOptions(max_queue_size=0)),
            ("max_queue_delay_s", ServingOptions(max_queue_delay_s=-1)),
            ("priority_step_s", ServingOptions(priority_step_s=float("nan"))),
            ("cache_ttl_s", ServingOptions(cache_ttl_s=86_401)),
        ],
    )
    def test_impossible_options_are_refused_by_name(self, plane, double, name, options):
        before = plane.client.describe_version(double).deployment.serving
        with pytest.raises(errors.InvalidInput, match=name):
            plane.client.tune(double, **vars(options))
        assert plane.client.describe_version(double).deployment.serving == before

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("max_batch_size", {"max_batch_size": 65_537}),
            ("preferred_batch_sizes", {"preferred_batch_sizes": [8, 4]}),
            ("preferred_batch_sizes", {"preferred_batch_sizes": [0]}),
            ("max_queue_delay_s", {"max_queue_delay": duration(-1)}),
            ("max_queue_delay_s", {"max_queue_delay": duration(86_401)}),
            ("priority_step_s", {"priority_step": duration(-0.1)}),
            ("cache_ttl_s", {"cache_ttl": duration(-1)}),
            ("no batching policy has the number 99", {"policy": 99}),
        ],
    )
    def test_management_refuses_impossible_options_too(self, plane, double, name, options):
        before = plane.client.describe_version(double).deployment.serving
        with grpc.insecure_channel(plane.cluster.management) as channel:
            stub = management_pb2_grpc.ManagementServiceStub(channel)
            request = management_pb2.SetServingOptionsRequest(
                model=double, serving=routing_pb2.ServingOptions(**options)
            )
            error = refused(lambda: stub.SetServingOptions(request, timeout=10))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert name in error.details()
        assert plane.client.describe_version(double).deployment.serving == before

    def test_what_is_not_deployed_cannot_be_tuned(self, plane, double):
        with pytest.raises(errors.ModelNotFound, match="nope"):
            plane.client.tune("nope", **vars(ServingOptions()))
        with pytest.raises(errors.ModelNotFound, match="9"):
            plane.client.tune(double, **vars(ServingOptions()), version="9")

    def test_options_survive_a_kill_of_management_and_of_the_frontend(self, plane, untuned):
        client = plane.client
        options = replace(OPTIONS[5], cache_ttl_s=60, max_queue_size=77)
        plane.client.tune(untuned, **vars(options))
        os.kill(plane.cluster.service_pid("skysail_management"), signal.SIGKILL)
        eventually(lambda: _is_whole(client), what="management is back")
        assert client.describe_version(untuned).deployment.serving == options
        self.check_held(plane, untuned)
        frontend = plane.cluster.service_pid("skysail_frontend")
        os.kill(frontend, signal.SIGKILL)
        eventually(lambda: _is_linked(plane, untuned, frontend), what="the frontend is back")
        self.check_held(plane, untuned)

    def check_held(self, plane: Plane, model: str) -> None:
        """Return if the model caches and takes 77 rows."""
        value = [0.25, time.monotonic(), 0.5]
        before = self.cache_results(plane, model)
        for _ in range(3):
            assert plane.client.predict(model, value, timeout_s=20).outcome == "OK"
        after = self.cache_results(plane, model)
        assert after - before == {"miss": 1, "hit": 2}
        request = infer_request(model, np.ones((78, 3)))
        error = refused(
            lambda: plane.inference.ModelInfer(request, timeout=10, wait_for_ready=True)
        )
        assert "batch-size must be <= 77" in error.details()

    @staticmethod
    def cache_results(plane: Plane, model: str) -> Counter[str]:
        return Counter(plane.page().by("result", "skysail_cache_queries_total", model=model))


def _is_whole(client: skysail.Client) -> bool:
    try:
        status = client.status()
    except errors.Unavailable:
        return False
    return status.is_store_reachable and len(status.frontends) == 1


def _is_linked(plane: Plane, model: str, old_pid: int) -> bool:
    """Tell whether another frontend runs and is linked to the model's replica."""
    try:
        pid = plane.cluster.service_pid("skysail_frontend")
        return pid != old_pid and plane.page().sum("skysail_replica_ready", model=model) == 1
    except (AssertionError, OSError, psutil.NoSuchProcess):
        return False

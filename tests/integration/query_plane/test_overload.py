"""Queries that cannot be answered in time are refused at once."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as StatusMessage

from skysail import errors
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_protos.v1 import (
    query_pb2,
)
from skysail_testing.query_plane import BATCH_S, Plane, infer_body, infer_request, predict_request


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

"""Queries and answers on streams."""

import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.v1 import (
    query_pb2,
)
from skysail_testing.processes import eventually
from skysail_testing.query_plane import (
    BATCH_S,
    NUM_MESSAGES,
    WIDE,
    Plane,
    infer_request,
    predict_request,
)


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
            from skysail.query_inputs import read_inputs
            from skysail_protos.v1 import query_pb2, query_pb2_grpc
            def requests():
                for number in range(200):
                    yield query_pb2.PredictRequest(
                        query_id=str(number), target="{steady}", inputs=read_inputs([{BATCH_S}]).tensors)
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

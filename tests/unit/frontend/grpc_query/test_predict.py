from dataclasses import replace

import numpy as np
import pytest

from skysail_common.rpc.messages import tensor_to_proto
from skysail_common.tensors import DataType, Tensor, from_numpy
from skysail_frontend.ingress import grpc_query
from skysail_frontend.ingress.grpc_query import QueryIds
from skysail_protos.v1 import query_pb2 as pb
from skysail_testing.fake_calls import FakeCall
from unit.frontend.grpc_query.calls import answer_of, ask, door_of, request_of, values
from unit.frontend.parts import Frontend, application, doubled, served


def test_ids_are_unique_and_exact_in_json_readers():
    ids, others = QueryIds(), QueryIds()
    numbers = [ids.next_number() for _ in range(100)] + [others.next_number() for _ in range(100)]
    assert len(set(numbers)) == 200
    assert max(numbers) < 2**53
    assert int(ids.next_text(), 16) == numbers[99] + 1


def test_a_query_is_answered_with_its_id_and_the_times():
    frontend = Frontend(served(), applications=[application("app", "m:", slo_s=1.0)])
    call = ask(frontend, request_of("app", query_id="seven"))
    frontend.clock.advance(0.25)
    frontend.replica.answer(compute_s=0.125)
    response = answer_of(call)
    assert response.query_id == "seven"
    assert values(response) == {"y": [[2.0, 4.0, 6.0]]}
    assert response.outcome == pb.OUTCOME_OK
    assert not response.is_default
    assert response.explanation == ""
    assert (response.model, response.version) == ("m", "1")
    timings = response.timings
    assert timings.total.ToNanoseconds() == 250_000_000
    assert timings.compute.ToNanoseconds() == 125_000_000
    assert timings.batch_wait.ToNanoseconds() == 125_000_000
    assert timings.queue.ToNanoseconds() == 0


def test_a_query_without_an_id_gets_one():
    frontend = Frontend(served(), function=doubled)
    door = door_of(frontend)
    seen = set()
    for _ in range(3):
        call = FakeCall("", request_of().SerializeToString())
        door.predict(call)
        frontend.loop.turn()
        seen.add(answer_of(call).query_id)
    assert len(seen) == 3
    assert "" not in seen


@pytest.mark.parametrize(
    "array",
    [np.array([1, 2, 3]), np.array([1, 2, 3], "u1"), np.array([1, 2, 3], "f2")],
)
@pytest.mark.parametrize("name", ["x", ""])
def test_numbers_are_widened_to_what_the_model_takes(array, name):
    frontend = Frontend(served(), function=doubled)
    response = answer_of(ask(frontend, request_of(value=array, name=name)))
    assert values(response) == {"y": [[2.0, 4.0, 6.0]]}


@pytest.mark.parametrize(
    "tensors",
    [
        [from_numpy("x", np.array([[1.0, 2.0, 3.0]]))],
        [from_numpy("", np.array([[1, 2, 3]], "i1"))],
        [from_numpy("x", np.array([[2**60 + 1] * 3]))],
        [from_numpy("x", np.array([["a", "b", "c"]], object))],
        [Tensor("x", DataType.FP64, (1, 3), bytes(25))],
        [Tensor("x", DataType.INT8, (1, 3), b"")],
        [from_numpy("x", np.array([[1.0, 2.0, 3.0]]))] * 2,
        [from_numpy("y", np.array([[1.0, 2.0, 3.0]]))],
        [],
    ],
)
def test_an_answer_does_not_depend_on_the_place_of_the_data(tensors, monkeypatch):
    request = pb.PredictRequest(
        query_id="q", target="m", inputs=[tensor_to_proto(tensor) for tensor in tensors]
    )
    known = ask(Frontend(served(), function=doubled), request)
    in_place = replace(grpc_query._predict_request, whole_bytes=-1)
    monkeypatch.setattr(grpc_query, "_predict_request", in_place)
    large = ask(Frontend(served(), function=doubled), request)
    assert large.answer == known.answer
    assert str(large.error) == str(known.error)


def test_a_version_can_be_named():
    frontend = Frontend(served("m:1"), served("m:2", is_current=False), function=doubled)
    assert answer_of(ask(frontend, request_of(version="2"))).version == "2"
    assert answer_of(ask(frontend, request_of())).version == "1"


def test_an_application_takes_precedence_over_a_model_of_its_name():
    frontend = Frontend(served(), applications=[application("m", default=[9.0] * 3)])
    response = answer_of(ask(frontend, request_of("m")))
    assert response.outcome == pb.OUTCOME_DEFAULT_NO_REPLICA
    assert response.is_default


def test_a_cancelled_call_cancels_its_query():
    frontend = Frontend(served())
    call = ask(frontend, request_of())
    call.cancel()
    assert frontend.dispatcher.num_unsettled == 0
    frontend.replica.answer()
    assert not call.is_answered

import numpy as np
import pytest

from skysail_common.clock import NEVER
from skysail_common.errors import DeadlineExceeded, NoReadyReplica
from skysail_common.rpc.contract import LateHandler
from skysail_common.rpc.messages import duration, tensor_to_proto
from skysail_common.tensors import DataType, from_numpy
from skysail_frontend.ingress.grpc_query import SERVICE
from skysail_protos.v1 import query_pb2 as pb
from skysail_testing.clock import FakeClock
from skysail_testing.fake_calls import FakeCall
from unit.frontend.grpc_query.calls import answer_of, ask, door_of, refusal, request_of, values
from unit.frontend.parts import Frontend, application, served


def late_of(frontend: Frontend) -> LateHandler:
    return door_of(frontend).late[f"/{SERVICE}/Predict"]


@pytest.mark.parametrize(
    ("timeout_s", "call_s", "slo_s", "expected_s"),
    [(0.02, NEVER, 1.0, 0.02), (0.5, 0.03, 1.0, 0.03), (0.5, NEVER, 0.04, 0.04)],
)
def test_the_soonest_deadline_applies(timeout_s, call_s, slo_s, expected_s):
    app = application("app", "m:", slo_s=slo_s)
    frontend = Frontend(served(), applications=[app])
    request = request_of("app", timeout=duration(timeout_s))
    call = ask(frontend, request, frontend.clock() + call_s)
    frontend.loop.advance(expected_s - 0.001)
    assert not call.is_answered
    frontend.loop.advance(0.002)
    assert isinstance(call.error, DeadlineExceeded)


def test_a_missed_deadline_is_answered_with_the_default_output_as_tensors():
    app = application("app", "m:", default=[1, 2, 3])
    frontend = Frontend(served(), applications=[app])
    tensor = from_numpy("x", np.zeros((2, 3)))
    request = pb.PredictRequest(target="app", inputs=[tensor_to_proto(tensor)])
    call = ask(frontend, request)
    frontend.loop.advance(0.11)
    response = answer_of(call)
    assert response.outcome == pb.OUTCOME_DEFAULT_DEADLINE
    assert response.is_default
    assert response.explanation == (
        "Failed to retrieve a prediction response within the specified latency SLO"
    )
    assert response.outputs[0].datatype == DataType.FP64
    assert values(response) == {"y": [[1.0, 2.0, 3.0]] * 2}
    assert response.timings.total.ToNanoseconds() == pytest.approx(0.1e9, rel=0.01)


def test_an_application_without_routes_answers_by_its_default_output():
    frontend = Frontend(applications=[application("app", default={"label": "cat", "score": 1})])
    response = answer_of(ask(frontend, request_of("app")))
    assert values(response) == {"label": ["cat"], "score": [1]}
    assert (response.model, response.version) == ("", "")


def test_the_slo_and_the_total_time_count_from_the_arrival_of_the_call():
    app = application("app", "m:", default=[1.0, 2.0, 3.0], slo_s=0.1)
    frontend = Frontend(served(), applications=[app])
    frontend.clock.advance(0.06)
    call = ask(frontend, request_of("app"), arrival=FakeClock.BEGIN)
    frontend.loop.advance(0.03)
    assert not call.is_answered
    frontend.loop.advance(0.011)
    response = answer_of(call)
    assert response.outcome == pb.OUTCOME_DEFAULT_DEADLINE
    assert response.timings.total.ToNanoseconds() == pytest.approx(100e6, abs=2e6)


def test_a_late_call_gets_the_default_output_of_its_application():
    app = application("app", "m:", default=[1.0, 2.0, 3.0])
    frontend = Frontend(served(), applications=[app])
    call = FakeCall("", request_of("app", query_id="seven").SerializeToString())
    assert late_of(frontend)(call)
    response = answer_of(call)
    assert response.outcome == pb.OUTCOME_DEFAULT_OVERLOADED
    assert values(response) == {"y": [[1.0, 2.0, 3.0]]}
    assert response.query_id == "seven"
    assert frontend.dispatcher.num_unsettled == 0
    assert frontend.version().batcher.rate.num_rows == 1
    assert not frontend.replica.in_flight


@pytest.mark.parametrize("target", ["m", "app", "nope", "x" * 200])
def test_a_late_call_without_a_default_output_is_not_answered_and_counts_as_an_arrival(target):
    frontend = Frontend(served(), applications=[application("app", "m:")])
    call = FakeCall("", request_of(target, query_id="a").SerializeToString())
    assert not late_of(frontend)(call)
    assert not call.is_answered
    assert frontend.version().batcher.rate.num_rows == (target in ("m", "app"))


@pytest.mark.parametrize("message", [b"", b"\x12", b"\x12\x03ap", b"\xff\xff", b"\x12\xff\xff\xff"])
def test_a_late_call_with_an_invalid_request_is_not_answered(message):
    frontend = Frontend(served(), applications=[application("app", "m:", default=[0.0])])
    assert not late_of(frontend)(FakeCall("", message))


def test_without_a_default_output_there_is_an_error():
    frontend = Frontend(applications=[application("app")])
    assert isinstance(refusal(frontend, request_of("app")), NoReadyReplica)

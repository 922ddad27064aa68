import pytest

from skysail_common.clock import NEVER
from skysail_common.errors import DeadlineExceeded, NoReadyReplica, Unavailable
from skysail_frontend.ingress.grpc_inference import SERVICE
from skysail_testing.fake_calls import FakeCall
from unit.frontend.grpc_inference.calls import ask, door_of, refusal, request_of
from unit.frontend.parts import Frontend, application, served


def test_the_deadline_of_the_call_applies():
    frontend = Frontend(served())
    call = ask(frontend, "ModelInfer", request_of(), deadline=frontend.clock() + 0.05)
    frontend.loop.advance(0.04)
    assert not call.is_answered
    frontend.loop.advance(0.02)
    assert isinstance(call.error, DeadlineExceeded)


def test_the_timeout_parameter_is_in_microseconds():
    frontend = Frontend(served())
    request = request_of()
    request.parameters["timeout"].int64_param = 20_000
    call = ask(frontend, "ModelInfer", request, deadline=frontend.clock() + 10)
    frontend.loop.advance(0.019)
    assert not call.is_answered
    frontend.loop.advance(0.002)
    assert isinstance(call.error, DeadlineExceeded)


@pytest.mark.parametrize(
    ("options", "call_s", "expected_s"),
    [
        ({"slo_s": 0.5, "default": [0.0]}, 0.1, 0.098),
        ({"slo_s": 0.5}, 0.1, 0.1),
        ({"slo_s": 0.5}, NEVER, 0.5),
        ({"slo_s": 300.0}, NEVER, 300.0),
    ],
)
def test_a_template_has_the_limits_of_its_request(options, call_s, expected_s):
    frontend = Frontend(served(), applications=[application("app", "m:1", **options)])
    door = door_of(frontend)
    message, now = request_of("app").SerializeToString(), frontend.clock()
    for _ in range(3):
        call = FakeCall(f"/{SERVICE}/ModelInfer", message, now + call_s, now)
        door.unary[call.method](call)
    frontend.loop.turn()
    deadlines = [query.deadline - now for query in frontend.replica.sent[0].queries]
    assert deadlines == pytest.approx([expected_s] * 3)


def test_the_default_timeout_applies_without_any_other_limit():
    frontend = Frontend(served(), default_timeout_s=3.0)
    call = ask(frontend, "ModelInfer", request_of())
    frontend.loop.advance(2.9)
    assert not call.is_answered
    frontend.loop.advance(0.2)
    assert isinstance(call.error, DeadlineExceeded)


def test_a_cancelled_call_cancels_its_query():
    frontend = Frontend(served())
    frontend.replica.is_ready = False
    call = ask(frontend, "ModelInfer", request_of())
    call.cancel()
    assert frontend.dispatcher.num_unsettled == 0
    assert len(frontend.version().queue) == 0
    assert not call.is_answered


def test_a_model_without_replicas_is_unavailable():
    frontend = Frontend(served(num_replicas=0))
    assert isinstance(refusal(frontend, request_of()), NoReadyReplica)


def test_a_server_may_shed_with_the_errors_of_triton():
    frontend = Frontend(served(max_batch_size=1), max_queue_size=1)
    frontend.replica.is_ready = False
    door = door_of(frontend, has_triton_errors=True)
    calls = []
    for _ in range(2):
        message = request_of(id="7").SerializeToString()
        calls.append(FakeCall(f"/{SERVICE}/ModelInfer", message, NEVER))
        door.unary[calls[-1].method](calls[-1])
    error = calls[1].error
    assert isinstance(error, Unavailable)
    assert error.message == "[request id: 7] Exceeds maximum queue size"
    assert error.backlog is not None
    assert error.backlog.num_rows == 1

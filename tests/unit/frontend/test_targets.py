import pytest

from skysail_common.clock import NEVER
from skysail_common.errors import ApplicationNotFound, InvalidInput, ModelNotFound
from skysail_common.tensors import DataType, Tensor
from skysail_frontend.core.routes import RouteTable
from skysail_frontend.ingress.targets import (
    Target,
    find_model_target,
    find_target,
    make_query,
    wait_limits,
)
from unit.frontend.parts import Frontend, application, served

m1, both = served("m:1"), served("both:1")
app, both_app = application("app", "m:"), application("both", "m:")
dangling, unrouted = application("dangling", "gone:"), application("unrouted")
table = RouteTable([app, both_app, dangling, unrouted], [m1, both])


@pytest.mark.parametrize(
    ("name", "version", "target"),
    [
        ("app", "", Target(app, m1)),
        ("app", "1", Target(app, m1)),
        ("m", "", Target(None, m1)),
        ("m", "1", Target(None, m1)),
        ("both", "", Target(both_app, m1)),
        ("dangling", "", Target(dangling, None)),
        ("unrouted", "", Target(unrouted, None)),
    ],
)
def test_an_application_takes_precedence_over_a_model(name, version, target):
    assert find_target(table, name, version) == target


@pytest.mark.parametrize(
    ("name", "version", "target"),
    [
        ("app", "", Target(app, m1)),
        ("m", "", Target(None, m1)),
        ("both", "", Target(None, both)),
        ("unrouted", "", Target(unrouted, None)),
    ],
)
def test_a_model_takes_precedence_over_an_application_for_model_targets(name, version, target):
    assert find_model_target(table, name, version) == target


def test_an_unknown_name_is_not_found():
    with pytest.raises(
        ApplicationNotFound,
        match=r"no application and no deployed model is called 'x'.*skysail start",
    ):
        find_target(table, "x", "")
    with pytest.raises(ModelNotFound, match="Request for unknown model: 'x' is not found"):
        find_model_target(table, "x", "")


@pytest.mark.parametrize("find", [find_target, find_model_target])
@pytest.mark.parametrize("name", ["app", "m"])
def test_a_version_that_is_not_deployed_is_not_found(find, name):
    with pytest.raises(ModelNotFound):
        find(table, name, "9")


@pytest.mark.parametrize(
    ("call_s", "slo_s", "timeout_s", "expected_s"),
    [
        (NEVER, None, None, 60.0),
        (5.0, None, None, 5.0),
        (5.0, 0.5, None, 0.5),
        (5.0, 0.5, 0.2, 0.2),
        (0.1, 0.5, 0.2, 0.1),
        # The default is for queries that have no other bound.
        (NEVER, 3600.0, None, 3600.0),
        (NEVER, None, 300.0, 300.0),
        (300.0, None, None, 300.0),
    ],
)
def test_the_deadline_is_the_soonest_of_all_limits(call_s, slo_s, timeout_s, expected_s):
    frontend = Frontend(m1, default_timeout_s=60.0)
    target = Target(application(slo_s=slo_s) if slo_s else None, m1)
    tensor = Tensor("x", DataType.FP64, (1, 3), bytes(24))
    now = frontend.clock()
    query = make_query(
        frontend.dispatcher,
        target,
        [tensor],
        frontend.settled,
        query_id="seven",
        deadline=now + call_s,
        timeout_s=timeout_s,
    )
    assert query.deadline == now + expected_s
    assert (query.query_id, query.arrival, query.rows) == ("seven", now, 1)
    assert query.application is target.application
    assert query.version is m1


@pytest.mark.parametrize(
    ("call_s", "slo_s", "expected_s"),
    [
        (1.0, 5.0, 0.998),
        (0.02, 5.0, 0.019),
        (1.0, 0.5, 0.5),
        (1.0, 0.999, 0.998),
        (NEVER, 0.5, 0.5),
        (NEVER, NEVER, 60.0),
    ],
)
def test_a_default_output_leaves_before_the_deadline_of_the_caller(call_s, slo_s, expected_s):
    frontend = Frontend(m1, default_timeout_s=60.0)
    with_default = Target(application(slo_s=slo_s, default=[0.0]), m1)
    deadline = wait_limits(frontend.dispatcher, with_default, None).deadline(100.0, 100.0 + call_s)
    assert deadline == pytest.approx(100.0 + expected_s, abs=1e-9)
    # An error need not arrive: the caller's own says the same.
    without = Target(application(slo_s=slo_s), m1)
    deadline = wait_limits(frontend.dispatcher, without, None).deadline(100.0, 100.0 + call_s)
    assert deadline == 100.0 + (60.0 if call_s == slo_s == NEVER else min(call_s, slo_s))


def test_inputs_are_checked_against_the_signature_with_the_label():
    frontend = Frontend(m1)
    tensor = Tensor("x", DataType.FP32, (1, 3), bytes(12))
    options = {"deadline": NEVER, "label": "[request id: 7] "}
    with pytest.raises(InvalidInput) as caught:
        make_query(frontend.dispatcher, Target(None, m1), [tensor], frontend.settled, **options)
    assert caught.value.message.startswith("[request id: 7] inference input 'x' data-type")
    query = make_query(
        frontend.dispatcher,
        Target(None, m1),
        [tensor],
        frontend.settled,
        widens=True,
        **options,
    )
    assert query.inputs == (bytes(24),)


def test_inputs_are_not_checked_without_a_version():
    frontend = Frontend(m1)
    tensor = Tensor("any", DataType.FP32, (1, 3), b"")
    query = make_query(
        frontend.dispatcher, Target(unrouted, None), [tensor], frontend.settled, deadline=NEVER
    )
    assert (query.version, query.inputs, query.rows) == (None, (), 1)

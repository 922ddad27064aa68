import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import ApplicationNotFound, ModelNotFound
from skysail_common.tensors import InputType
from skysail_frontend.core.routes import Application, Route, RouteTable
from skysail_testing.examples import examples
from unit.frontend.parts import application, served

m1, m2 = served("m:1", is_current=False), served("m:2", is_current=True)
unpromoted = served("new:1", is_current=False)
table = RouteTable([application("app", "m:")], [m1, m2, unpromoted])


def weighted(**weights: float) -> Application:
    routes = tuple(Route("m", version.lstrip("v"), weight) for version, weight in weights.items())
    return Application("app", InputType.DOUBLES, 0.1, routes)


def test_an_application_is_found_by_its_name():
    assert table.application("app").name == "app"
    with pytest.raises(ApplicationNotFound, match="application 'nope' is not registered"):
        table.application("nope")


def test_the_current_version_is_the_default():
    assert table.version("m", "") is m2


def test_a_version_is_found_by_name_even_if_it_is_not_current():
    assert table.version("m", "1") is m1
    assert table.version("new", "1") is unpromoted


@pytest.mark.parametrize(
    ("model", "version", "beginning"),
    [
        ("nope", "", "Request for unknown model: 'nope' is not found"),
        ("nope", "1", "Request for unknown model: 'nope' is not found"),
        ("m", "9", "Request for unknown model: 'm' version 9 is not found"),
        ("new", "", "Request for unknown model: 'new' has no available versions"),
    ],
)
def test_errors_of_missing_models_have_the_texts_of_triton(model, version, beginning):
    with pytest.raises(ModelNotFound) as caught:
        table.version(model, version)
    assert caught.value.message.startswith(beginning)


def test_all_versions_of_a_model_are_listed():
    assert table.versions_of("m") == [m1, m2]
    assert table.versions_of("nope") == []
    assert table.has_model("m")
    assert not table.has_model("nope")


def test_a_route_without_a_version_leads_to_the_current_one():
    assert table.routed_version(application("a", "m:"), "") is m2


def test_a_route_with_a_version_leads_to_that_version():
    assert table.routed_version(application("a", "m:1"), "") is m1


@pytest.mark.parametrize("route", ["m:9", "nope:1", "nope:", "new:"])
def test_a_route_to_an_undeployed_version_has_no_target(route):
    assert table.routed_version(application("a", route), "") is None


def test_an_application_without_routes_has_no_target():
    assert table.routed_version(application("a"), "") is None


def test_the_version_named_by_the_caller_overrides_the_routes():
    assert table.routed_version(application("a", "m:2"), "1") is m1
    assert table.routed_version(application("a", "nope:", "m:"), "1") is m1


def test_errors_of_missing_versions_have_the_texts_of_clipper():
    with pytest.raises(ModelNotFound) as caught:
        table.routed_version(application("a", "m:"), "X")
    assert caught.value.message == "Requested version: X does not exist for model: m"


def test_a_version_of_an_application_without_routes_does_not_exist():
    with pytest.raises(ModelNotFound) as caught:
        table.routed_version(application("a"), "1")
    assert caught.value.message.startswith("Requested version: 1 does not exist")


def test_routes_are_chosen_by_their_weights():
    random.seed(7)
    app = weighted(v1=1.0, v2=3.0)
    chosen = Counter(table.routed_version(app, "") for _ in range(4000))
    assert chosen.keys() == {m1, m2}
    assert 0.22 < chosen[m1] / 4000 < 0.28


def test_a_dangling_route_keeps_its_share():
    random.seed(7)
    app = weighted(v1=1.0, v9=1.0)
    chosen = Counter(table.routed_version(app, "") for _ in range(2000))
    assert 0.45 < chosen[None] / 2000 < 0.55


@settings(max_examples=examples(50))
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5))
def test_every_choice_is_one_of_the_routes(weights):
    app = weighted(**{f"v{index}": weight for index, weight in enumerate(weights)})
    assert app.choose_route() in app.routes


def test_applications_are_equal_by_their_registered_fields():
    assert weighted(v1=1.0) == weighted(v1=1.0)
    assert weighted(v1=1.0) != weighted(v1=2.0)

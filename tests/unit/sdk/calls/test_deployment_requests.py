"""Requests that deploy."""

import pytest

from skysail.calls.deployment_requests import deploy_request
from skysail.errors import InvalidInput
from skysail_common.resources import ResourceChanges
from skysail_protos.v1 import management_pb2


def request_of(**given: object) -> management_pb2.DeployRequest:
    names = ("version", "num_replicas", "promote", "labels", "environment", "max_batch_size")
    absent = dict.fromkeys((*names, "start_timeout_s", "warm_up"))
    return deploy_request(name="m", resources=ResourceChanges(), **{**absent, **given})  # type: ignore[arg-type]


def test_an_application_travels_with_its_values():
    application = request_of(application="app", slo_ms=250, default_output=[1]).application
    assert application == management_pb2.Application(
        name="app", slo={"nanos": 250_000_000}, default_output_json="[1]"
    )
    application = request_of(application="app").application
    assert application.slo.nanos == 100_000_000
    assert not application.HasField("default_output_json")
    assert (
        request_of(application="app", default_output=None).application.default_output_json == "null"
    )


def test_a_deployment_without_application_has_none():
    assert not request_of().HasField("application")


@pytest.mark.parametrize("given", [{"slo_ms": 5.0}, {"default_output": None}])
def test_values_without_an_application_are_refused(given):
    with pytest.raises(InvalidInput, match="give application too"):
        request_of(**given)

import pytest

from skysail_common.errors import InvalidInput
from skysail_management.request_limits import check_request
from skysail_protos.v1 import management_pb2, routing_pb2


@pytest.mark.parametrize(
    "request_",
    [
        management_pb2.DeployRequest(model="m" * 1000, labels={"a": "b"}, num_replicas=3),
        management_pb2.Environment(variables={"A": "x" * 130_000}),
        management_pb2.UploadArtifactRequest(chunk=b"x" * 2**20),
        management_pb2.SetRoutesRequest(routes=[routing_pb2.Route(model="m")] * 10_000),
        management_pb2.UpdateApplicationRequest(default_output_json="x" * 70_000),
    ],
)
def test_usual_requests_are_accepted(request_):
    check_request(request_)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            management_pb2.StreamLogsRequest(model="m" * 10_000),
            "cannot accept model: it has 10000 characters; at most 1000 are allowed",
        ),
        (
            management_pb2.DeployRequest(labels={"k" * 1001: ""}),
            "cannot accept labels: it has 1001 characters",
        ),
        (
            management_pb2.Environment(variables={"A": "x" * 130_001}),
            "cannot accept variables: it has 130001 characters",
        ),
        (
            management_pb2.SetRoutesRequest(routes=[routing_pb2.Route(model="m" * 1001)]),
            "cannot accept model: it has 1001 characters",
        ),
        (
            management_pb2.RegisterApplicationRequest(
                application=management_pb2.Application(name="a" * 1001)
            ),
            "cannot accept name: it has 1001 characters",
        ),
        (
            management_pb2.SetRoutesRequest(routes=[routing_pb2.Route()] * 10_001),
            "cannot accept routes: it has 10001 items; at most 10000 are allowed",
        ),
    ],
)
def test_error_names_the_field_that_is_too_long(request_, text):
    with pytest.raises(InvalidInput) as raised:
        check_request(request_)
    assert raised.value.message.startswith(text)

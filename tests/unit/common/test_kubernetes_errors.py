import pytest

from skysail_common.errors import ContainerManagerUnavailable
from skysail_common.kubernetes.errors import (
    ChangedMeanwhile,
    ClusterRefused,
    HistoryGone,
    NotAllowed,
    NotInCluster,
    message_of,
    refusal,
)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ClusterRefused),
        (403, ClusterRefused),
        (404, NotInCluster),
        (409, ChangedMeanwhile),
        (410, HistoryGone),
        (422, ClusterRefused),
        (429, ContainerManagerUnavailable),
    ],
)
def test_each_status_has_an_error_class(status: int, error: type):
    found = refusal(status, "the message")
    assert type(found) is error
    assert found.message == "the message"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_means_unavailable(status: int):
    found = refusal(status, "etcdserver: leader changed")
    assert type(found) is ContainerManagerUnavailable
    assert found.message == "Kubernetes is unavailable: etcdserver: leader changed"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            'pods is forbidden: User "system:serviceaccount:n:s" cannot list resource "pods" in API '
            'group "" in the namespace "n"',
            "'system:serviceaccount:n:s' may not list pods in namespace 'n': a role must allow it",
        ),
        (
            'deployments.apps "d" is forbidden: User "jo" cannot patch resource '
            '"deployments/scale" in API group "apps" in the namespace "n"',
            "'jo' may not patch deployments/scale.apps in namespace 'n': a role must allow it",
        ),
        (
            'nodes is forbidden: User "jo" cannot list resource "nodes" in API group "" at the '
            "cluster scope",
            "'jo' may not list nodes: a role must allow it",
        ),
    ],
)
def test_the_error_names_the_missing_rule_of_a_role(message: str, told: str):
    found = refusal(403, message)
    assert type(found) is NotAllowed
    assert found.message == told


def test_rejected_credentials_are_reported():
    found = refusal(401, "Unauthorized")
    assert type(found) is NotAllowed
    assert found.message == "Kubernetes rejects the credentials: Unauthorized"


def test_a_refusal_by_admission_is_not_a_missing_rule():
    message = 'pods "p" is forbidden: exceeded quota: small, requested: cpu=2'
    found = refusal(403, message)
    assert type(found) is ClusterRefused
    assert found.message == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"kind": "Status", "message": "no"}', "no"),
        (b"404 page not found\n", "404 page not found"),
        (b"[1]", "[1]"),
        (b"{}", "{}"),
        (b"", ""),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_the_message_of_an_answer(content: bytes, message: str):
    assert message_of(content) == message

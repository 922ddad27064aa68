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
def test_what_a_status_stands_for(status: int, error: type):
    found = refusal(status, "the message")
    assert type(found) is error
    assert found.message == "the message"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_one_that_cannot_answer_is_not_there(status: int):
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
def test_a_rule_that_a_role_lacks_is_named(message: str, told: str):
    found = refusal(403, message)
    assert type(found) is NotAllowed
    assert found.message == told


def test_who_is_not_known_is_told():
    found = refusal(401, "Unauthorized")
    assert type(found) is NotAllowed
    assert found.message == "Kubernetes rejects the credentials: Unauthorized"


def test_what_admission_forbids_is_no_lack_of_rules():
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

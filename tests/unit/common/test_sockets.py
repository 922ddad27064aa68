import pytest

from skysail_common.errors import FailedPrecondition
from skysail_common.process.sockets import (
    check_management_host,
    join_host_port,
    local_endpoint,
    split_host_port,
    without_brackets,
)


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [("127.0.0.1", "127.0.0.1:80"), ("a.b", "a.b:80"), ("::1", "[::1]:80"), ("::", "[::]:80")],
)
def test_a_joined_endpoint_splits_into_its_parts(host: str, endpoint: str):
    assert join_host_port(host, 80) == endpoint
    assert split_host_port(endpoint) == (host, 80)


def test_an_endpoint_without_a_port_is_refused():
    with pytest.raises(ValueError, match="invalid literal"):
        split_host_port("[::1]")


@pytest.mark.parametrize(
    ("host", "bare"), [("[::1]", "::1"), ("::1", "::1"), ("localhost", "localhost"), ("[", "[")]
)
def test_brackets_are_removed_once(host: str, bare: str):
    assert without_brackets(host) == bare


@pytest.mark.parametrize(
    ("listens_on", "reached_at"),
    [
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::]:1", "[::1]:1"),
        ("[::1]:1", "[::1]:1"),
        ("10.0.0.0:1", "10.0.0.0:1"),
    ],
)
def test_a_wildcard_listener_is_reached_by_loopback(listens_on: str, reached_at: str):
    assert local_endpoint(listens_on) == reached_at


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_management_may_always_listen_on_loopback(host: str):
    check_management_host(host, is_guarded=False, is_insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "somewhere.example"])
def test_management_on_another_address_needs_tls_or_a_flag(host: str):
    with pytest.raises(FailedPrecondition, match=f"cannot open management on {host}: .*--insecure"):
        check_management_host(host, is_guarded=False, is_insecure=False)
    check_management_host(host, is_guarded=True, is_insecure=False)
    check_management_host(host, is_guarded=False, is_insecure=True)


def test_tls_is_advised_only_if_it_is_possible():
    with pytest.raises(FailedPrecondition, match=r"SKYSAIL_MANAGEMENT_TOKEN_FILE.*--insecure"):
        check_management_host("0.0.0.0", is_guarded=False, is_insecure=False)
    with pytest.raises(FailedPrecondition, match="on this machine; pass --insecure if") as raised:
        check_management_host("0.0.0.0", is_guarded=False, is_insecure=False, can_be_guarded=False)
    assert "TLS" not in raised.value.message

import inspect
import math

import numpy as np
import pytest

import skysail
from skysail import AsyncClient, Client, Route
from skysail.arguments import CHECKS
from skysail.calls.application_requests import register_request
from skysail.errors import InvalidInput


def parameters_of(cls: type) -> set[str]:
    return {
        name
        for method_name, method in inspect.getmembers(cls, inspect.isfunction)
        if not method_name.startswith("_") or method_name == "__init__"
        for name in inspect.signature(method).parameters
    } - {"self"}


def test_every_argument_of_the_clients_is_checked_and_no_other():
    assert parameters_of(AsyncClient) == set(CHECKS)


async def call(client: AsyncClient, method: str, *args, **kwargs) -> None:
    await getattr(client, method)(*args, **kwargs)


BAD = [
    ("predict", ("m", 1), {"timeout_s": 0}, "timeout_s must be a number of seconds, more than 0"),
    ("predict", ("m", 1), {"timeout_s": "1"}, "got '1'"),
    ("predict", ("m", 1), {"timeout_s": math.nan}, "timeout_s must be"),
    ("predict", ("m", 1), {"timeout_s": True}, "timeout_s must be"),
    ("predict", (5, 1), {}, "target must be a text, got 5"),
    ("predict", ("m", 1), {"version": 1.5}, "version must be a text or a whole number, got 1.5"),
    ("predict_batch", ("m", [1]), {"timeout_s": -1}, "timeout_s must be"),
    ("scale", ("m", -1), {}, "num_replicas must be a whole number from 0 to 4294967295, got -1"),
    ("scale", ("m", "2"), {}, "num_replicas must be"),
    ("scale", ("m", 2), {"timeout_s": "1"}, "timeout_s must be"),
    ("autoscale", ("m",), {"max_replicas": 2**40}, "max_replicas must be"),
    ("promote", ("m", None), {}, "version must be a text or a whole number, got None"),
    ("rollback", (b"m",), {}, "model must be a text"),
    ("undeploy", ("m",), {"force": "no"}, "force must be True or False, got 'no'"),
    ("tune", ("m",), {"policy": "fixed"}, "policy must be a PolicyName"),
    ("tune", ("m",), {"cache_ttl_s": math.inf}, "cache_ttl_s must be a number of at least 0"),
    ("link", (5, "m"), {}, "application must be a text"),
    ("set_routes", ("a", ["m"]), {}, "routes must be a list of Route"),
    ("set_routes", ("a", [Route("m", weight=math.nan)]), {}, "routes must be a list of Route"),
    ("register_application", ("a",), {"slo_ms": 0}, "slo_ms must be a number of milliseconds"),
    ("update_application", ("a",), {"uses_cache": 1}, "uses_cache must be True or False, got 1"),
]


@pytest.mark.parametrize(("method", "args", "kwargs", "message"), BAD)
async def test_an_illegal_value_is_refused_with_its_name(method, args, kwargs, message):
    with pytest.raises(InvalidInput) as caught:
        await call(AsyncClient("a:1"), method, *args, **kwargs)
    assert message in caught.value.message


DEPLOY = {"name": "m", "version": "1", "example": np.ones((1, 1))}


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        ("name", 5, "5"),
        ("name", None, "None"),
        (
            "environment",
            {"A": "secret", "B": 1},
            "a dict, whose value of 'B' is of type int; give a text",
        ),
        ("labels", ["a"], "['a']"),
        ("labels", {1: "a"}, "{1: 'a'}, whose key 1 is of type int; give a text"),
        ("num_replicas", 1.5, "1.5"),
        ("cpus", "1", "'1'"),
        ("gpus", "half", "'half'"),
        ("start_timeout_s", 0, "0"),
        ("max_batch_size", "a" * 100, f"'{'a' * 59}…"),
        ("pkgs_to_install", [5], "[5]"),
        ("requirements", 5, "5"),
        ("code", "./mypkg", "'./mypkg'"),
        ("promote", "yes", "'yes'"),
        ("on_event", 5, "5"),
    ],
)
def test_deploy_refuses_an_argument_before_the_function_runs(name, value, got):
    def function(x):
        raise AssertionError

    with pytest.raises(InvalidInput) as caught:
        Client("a:1").deploy(function, **{**DEPLOY, name: value})
    assert caught.value.message.startswith(f"{name} must be ")
    assert caught.value.message.endswith(f", got {got}")


@pytest.mark.parametrize(
    "endpoint", ["::1:8003", "localhost", "http://a:1", "a:0", ":1", "a:b", "a/b:1", 5]
)
def test_an_endpoint_has_a_host_and_a_port(endpoint, monkeypatch):
    for name in ("endpoint", "query_endpoint"):
        with pytest.raises(InvalidInput, match=f"{name} must be host:port, such as"):
            AsyncClient(**{"endpoint": "a:1", name: endpoint})
    if endpoint != 5:
        monkeypatch.setenv("SKYSAIL_ENDPOINT", endpoint)
        with pytest.raises(InvalidInput, match="endpoint must be host:port"):
            AsyncClient()


@pytest.mark.parametrize("endpoint", ["a:1", "[::1]:8003", "127.0.0.1:65535", "unix:/a/b"])
def test_endpoints(endpoint):
    assert AsyncClient(endpoint).endpoint == endpoint


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(1.5), "1.5"),
        (np.array([1, 2]), "[1, 2]"),
        ({"a": np.int64(3)}, '{"a": 3}'),
        (None, "null"),
        (2**64 - 1, "18446744073709551615"),
    ],
)
def test_default_outputs_are_sent_as_json(value, text):
    request = register_request("a", "tensors", value, 100)
    assert request.application.default_output_json == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**64, "cannot use default_output: 18446744073709551616 is not a 64-bit integer"),
        ([-(2**63) - 1], "cannot use default_output: -9223372036854775809"),
        (math.nan, "cannot write default_output as JSON"),
        ({1}, "cannot write default_output as JSON: it holds a value of type set"),
        ({(1, 2): 3}, "cannot write default_output as JSON"),
    ],
)
def test_a_default_output_without_a_form_in_json_is_refused(value, message):
    with pytest.raises(InvalidInput) as caught:
        register_request("a", "tensors", value, 100)
    assert caught.value.message.startswith(message)


def test_checked_methods_keep_their_documentation_and_kind():
    assert inspect.signature(skysail.AsyncClient.scale).parameters["wait"].default is True
    assert skysail.AsyncClient.scale.__doc__ == skysail.Client.scale.__doc__

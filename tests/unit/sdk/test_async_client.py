import inspect

import grpc.aio
import pytest

import skysail
from skysail import AsyncClient
from skysail.artifact.requirements import read_requirements
from skysail.calls.deployment_requests import deploy_request, tune_request
from skysail.connection_errors import management_error
from skysail.sentinels import NOT_GIVEN
from skysail_common.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    SkysailError,
    StoreUnavailable,
    Unavailable,
    Unsupported,
)
from skysail_common.resources import ResourceChanges
from skysail_common.rpc.management_access import ManagementAccess
from skysail_common.rpc.messages import duration
from skysail_common.serving_options import PolicyName


def test_packages_of_the_list_and_of_the_file_come_together(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("scikit-learn>=1.4\n\n  torch  \r\n")
    assert read_requirements(["numpy"], file) == ("numpy", "scikit-learn>=1.4", "torch")
    assert read_requirements([], str(file)) == ("scikit-learn>=1.4", "torch")
    assert read_requirements(["numpy", ""], None) == ("numpy",)
    assert read_requirements([], None) == ()
    assert read_requirements("humanize", None) == ("humanize",)


def test_comments_of_the_file_are_left_out_as_pip_does(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# all of it\n"
        "  # indented\n"
        "numpy # the newest\n"
        "torch\t#cpu\n"
        "mine @ git+https://example.org/mine.git#egg=mine\n"
        "https://example.org/a.whl#sha256=abc  # pinned\n"
    )
    assert read_requirements([], file) == (
        "numpy",
        "torch",
        "mine @ git+https://example.org/mine.git#egg=mine",
        "https://example.org/a.whl#sha256=abc",
    )


def test_markers_and_extras_are_kept(tmp_path):
    file = tmp_path / "requirements.txt"
    lines = ["a[b,c]>=1,<2; python_version < '3.12'", "--extra-index-url https://example.org"]
    file.write_text("\n".join(lines))
    assert read_requirements([], file) == tuple(lines)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "nothing.txt", tmp_path):
        with pytest.raises(InvalidInput) as caught:
            read_requirements([], path)
        assert caught.value.message.startswith(f"cannot read the requirements file {path}: ")
        assert caught.value.message.endswith("; give the path of a text file in pip's format")


def test_a_requirements_file_is_utf_8_text(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_bytes(b"\xef\xbb\xbfnumpy # caf\xc3\xa9\n")
    assert read_requirements([], file) == ("numpy",)
    file.write_bytes("numpy".encode("utf-16"))
    with pytest.raises(InvalidInput, match="it is not UTF-8 text; give"):
        read_requirements([], file)


REQUEST = {
    "name": "digits",
    "version": None,
    "num_replicas": None,
    "promote": None,
    "labels": None,
    "environment": None,
    "resources": ResourceChanges(),
    "max_batch_size": None,
    "start_timeout_s": None,
    "warm_up": None,
}


def test_an_absent_field_leaves_the_choice_to_the_server():
    request = deploy_request(**REQUEST)
    assert [field.name for field, _ in request.ListFields()] == ["model", "resources"]
    assert request.model == "digits"
    assert request.resources.ListFields() == []


def test_every_given_value_is_sent():
    request = deploy_request(
        **{
            **REQUEST,
            "version": 1.0,
            "num_replicas": 0,
            "promote": False,
            "labels": {"team": "a"},
            "environment": {"LEVEL": "2"},
            "resources": ResourceChanges(3, 512, 1.5, 2),
            "max_batch_size": 32,
            "start_timeout_s": 2.5,
            "warm_up": False,
        }
    )
    assert request.version == "1.0"
    # 0 replicas differ from an absent number of replicas.
    assert request.HasField("num_replicas")
    assert request.HasField("promote")
    assert not request.promote
    assert dict(request.labels) == {"team": "a"}
    assert dict(request.environment.variables) == {"LEVEL": "2"}
    assert (request.resources.num_threads, request.resources.memory_mib) == (3, 512)
    assert (request.resources.cpus, request.resources.gpus) == (1.5, 2)
    assert request.serving.max_batch_size == 32
    assert request.start_timeout == duration(2.5)
    assert request.HasField("warm_up")
    assert not request.warm_up


def test_an_empty_environment_differs_from_an_absent_one():
    assert deploy_request(**{**REQUEST, "environment": {}}).HasField("environment")
    assert not deploy_request(**REQUEST).HasField("environment")


def test_a_tune_request_has_a_mask_of_the_given_options():
    request = tune_request(
        "digits",
        1,
        max_batch_size=NOT_GIVEN,
        policy=PolicyName.FIXED,
        max_queue_delay_s=None,
        preferred_batch_sizes=[4, 99],
        cache_ttl_s=0,
    )
    assert (request.model, request.version) == ("digits", "1")
    names = ["policy", "max_queue_delay", "preferred_batch_sizes", "cache_ttl"]
    assert list(request.update_mask.paths) == names
    # Absent options are not sent, so that they do not overwrite changes of other callers.
    set_fields = [field.name for field, _ in request.serving.ListFields()]
    assert set_fields == ["policy", "preferred_batch_sizes"]
    with pytest.raises(InvalidInput, match="max_batch_size must be from 1"):
        tune_request("digits", None, max_batch_size=-1)


def test_an_illegal_timeout_is_refused():
    with pytest.raises(InvalidInput, match="a duration is at most a year"):
        deploy_request(**{**REQUEST, "start_timeout_s": float("inf")})


def test_the_endpoint_is_the_argument_or_the_setting_or_the_local_cluster(tmp_path, monkeypatch):
    assert AsyncClient("a:1").endpoint == "a:1"
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(tmp_path))
    assert AsyncClient().endpoint == "127.0.0.1:8003"
    (tmp_path / "cluster.json").write_text('{"management": "127.0.0.1:9"}')
    assert AsyncClient().endpoint == "127.0.0.1:9"
    monkeypatch.setenv("SKYSAIL_ENDPOINT", "b:2")
    assert AsyncClient().endpoint == "b:2"
    assert AsyncClient("a:1").endpoint == "a:1"


@pytest.mark.parametrize("text", ["", "{", "{}", '{"grpc": "a:1"}'])
def test_an_unusable_cluster_file_is_ignored(tmp_path, monkeypatch, text):
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(tmp_path))
    (tmp_path / "cluster.json").write_text(text)
    assert AsyncClient().endpoint == "127.0.0.1:8003"


async def test_a_client_that_was_never_used_is_closed_without_a_connection():
    async with AsyncClient("a:1") as client:
        assert client.endpoint == "a:1"
    await client.close()


def rpc_error(code: grpc.StatusCode, details: str, reason: str = "") -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata(*[("skysail-reason", reason)] if reason else [])
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details)


REFUSED = "failed to connect to all addresses; last error: UNKNOWN: Connection refused"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            rpc_error(grpc.StatusCode.UNAVAILABLE, REFUSED),
            Unavailable,
            "cannot connect to management at a:1: connection refused; check that management runs",
        ),
        (
            rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed"),
            Unavailable,
            "cannot reach management at a:1: Socket closed",
        ),
        (
            rpc_error(grpc.StatusCode.UNAVAILABLE, f"{REFUSED}: Failed parsing HTTP/2"),
            Unsupported,
            "a:1 is not a management endpoint",
        ),
        (
            rpc_error(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
            Unsupported,
            "a:1 is not a management endpoint",
        ),
        (
            rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
            DeadlineExceeded,
            "management at a:1 did not answer in time",
        ),
        (
            rpc_error(grpc.StatusCode.UNAVAILABLE, "the store is away", "StoreUnavailable"),
            StoreUnavailable,
            "the store is away",
        ),
        (rpc_error(grpc.StatusCode.NOT_FOUND, "no m", "ModelNotFound"), ModelNotFound, "no m"),
        (rpc_error(grpc.StatusCode.INTERNAL, "odd"), SkysailError, "odd"),
    ],
)
def test_errors_without_an_answer_have_a_fix(error, kind, message):
    found = management_error(error, "a:1", ManagementAccess())
    assert type(found) is kind
    assert found.message.startswith(message)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:8003", "[::1]:8003", "localhost:1", "unix:/a"])
def test_the_error_about_a_missing_cluster_names_skysail_up(endpoint):
    error = rpc_error(grpc.StatusCode.UNAVAILABLE, REFUSED)
    assert management_error(error, endpoint, ManagementAccess()).message == (
        f"no management runs at {endpoint}; start a cluster with 'skysail up', or if one runs, its "
        "log says why"
    )


def test_an_argument_that_is_not_given_is_shown_as_such():
    for cls in (skysail.Client, AsyncClient):
        parameters = inspect.signature(cls.register_application).parameters
        assert repr(parameters["default_output"].default) == "<not given>"


def test_the_methods_of_both_clients_have_the_same_documentation():
    assert "Raises:" in skysail.Client.deploy.__doc__
    for name, method in inspect.getmembers(skysail.Client, inspect.isfunction):
        if not name.startswith("_"):
            assert method.__doc__ == getattr(AsyncClient, name).__doc__

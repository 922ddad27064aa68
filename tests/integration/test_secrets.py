"""Secrets do not leak: values of environments, and variables of the operator's shell."""

import json
import secrets
import stat
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import json_format

import skysail
from skysail import errors
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import management_pb2_grpc
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.commands import skysail_command

# A random value, because the artifact contains the source of this module.
VALUE = secrets.token_hex(16)
SHELL = {
    "AWS_SECRET_ACCESS_KEY": "of-the-shell",
    "KUBECONFIG": "/of/the/shell",
    "PIP_EXTRA_INDEX_URL": "https://me:of-the-shell@127.0.0.1:1/simple",
    "HTTPS_PROXY": "http://me:of-the-shell@127.0.0.1:1",
    "PASSED_ON": "of-the-shell",
    "LC_MESSAGES": "C",
}


def variables(names: list[str]) -> list[str]:
    import os

    return [json.dumps(dict(os.environ)) for _ in names]


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SHELL.items():
            patch.setenv(name, value)
        directory = tmp_path_factory.mktemp("s") / "data"
        with running_cluster(
            directory, "--pass-env", "PASSED_ON", "--pass-env", "NONE*"
        ) as cluster:
            for name in SHELL:
                patch.delenv(name)
            yield cluster


@pytest.fixture(scope="module")
def client(secretive: RunningCluster) -> Iterator[skysail.Client]:
    with secretive.client() as client:
        client.deploy(
            variables,
            name="m",
            version="1",
            input_type="strings",
            environment={"PASSWORD": VALUE, "LEVEL": "2"},
        )
        yield client


def test_replicas_have_their_environment_and_no_credentials_of_the_shell(client):
    found = json.loads(client.predict("m", "").output)
    assert (found["PASSWORD"], found["LEVEL"]) == (VALUE, "2")
    assert SHELL.keys() & found.keys() == {"PASSED_ON", "LC_MESSAGES"}
    assert {"PATH", "HOME"} <= found.keys()


def test_no_call_reveals_values_of_an_environment(secretive: RunningCluster, client):
    with grpc.insecure_channel(secretive.management) as channel:
        stub = management_pb2_grpc.ManagementServiceStub(channel)
        answers = [
            stub.GetClusterStatus(pb.GetClusterStatusRequest()),
            stub.ListModels(pb.ListModelsRequest()),
            stub.DescribeModel(pb.DescribeModelRequest(name="m")),
            stub.ListVersions(pb.ListVersionsRequest(model="m")),
            stub.DescribeVersion(pb.DescribeVersionRequest(model="m", version="1")),
            *stub.Deploy(pb.DeployRequest(model="m", version="1")),
        ]
    for answer in answers:
        assert VALUE not in json_format.MessageToJson(answer)
    assert client.describe_version("m").deployment.environment_names == ("LEVEL", "PASSWORD")
    shown = skysail_command("status", "--endpoint", secretive.management, "--output", "json")
    assert "PASSWORD" in shown.stdout
    assert VALUE not in shown.stdout


def test_a_refused_deployment_reveals_no_value(client):
    with pytest.raises(errors.FailedPrecondition) as raised:
        client.deploy(
            variables, name="m", version="1", input_type="strings",
            environment={"PASSWORD": "another-value"},
        )  # fmt: skip
    assert VALUE not in str(raised.value)
    assert "another-value" not in str(raised.value)


def test_values_are_written_only_to_the_store(secretive: RunningCluster, client):
    store = secretive.data_dir / "store"
    texts = {path: path.read_bytes() for path in secretive.data_dir.rglob("*") if path.is_file()}
    having = {path for path, text in texts.items() if VALUE.encode() in text}
    assert having
    assert all(store in path.parents for path in having)


def test_the_data_directory_is_closed_to_other_users(secretive: RunningCluster, client):
    for path in [secretive.data_dir, *secretive.data_dir.iterdir()]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.name in ("cluster.json", "cluster.lock", "routes.snapshot"):
            assert mode == 0o600, path

"""The last line of a deployment, about whether the version is current."""

import json
import warnings
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from skysail.calls.promotion_warning import SkysailWarning, warn_if_not_current
from skysail.cli import deployments
from skysail.cli.main import cli
from skysail.descriptions import Version
from skysail_common.rpc.messages import signature_to_proto
from skysail_common.tensors import DataType, InputType, Signature, TensorSpec
from skysail_protos.v1 import management_pb2 as pb

SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP64, (-1,)),), (TensorSpec("output", DataType.FP64, (-1,)),)
)


class DeployingClient:
    """Deploys to a version that is current or not, and warns as the SDK does."""

    def __init__(self) -> None:
        self.is_current = False
        self.arguments: dict[str, object] = {}

    def deploy(self, function: object, **arguments: object) -> Version:
        self.arguments = arguments
        found = Version.of(
            pb.Version(
                model="roll",
                version="1",
                is_current=self.is_current,
                signature=signature_to_proto(SIGNATURE),
                input_type=InputType.DOUBLES,
            )
        )
        warn_if_not_current(found, None, depth=0)
        return found


@pytest.fixture
def client(monkeypatch) -> DeployingClient:
    client = DeployingClient()

    @contextmanager
    def open_client(endpoint):
        yield client

    monkeypatch.setattr(deployments, "open_client", open_client)
    return client


def deploy(*options: str) -> str:
    done = CliRunner().invoke(
        cli, ["deploy", "math:fsum", "--name", "roll", "--input-type", "doubles", *options]
    )
    assert done.exit_code == 0, done.exception
    return done.output


def test_a_version_that_is_not_current_says_so_and_how_to_promote_it(client):
    assert deploy() == (
        "roll:1 has 0 ready replica(s); it is NOT the current version: 'skysail promote roll:1' "
        "makes it current\n"
    )
    notice = json.loads(deploy("-o", "json"))["notice"]
    assert notice.startswith("roll:1 is not the current version")
    assert "'skysail promote roll:1'" in notice


def test_a_current_version_says_that_it_is(client):
    client.is_current = True
    assert deploy() == "roll:1 has 0 ready replica(s) and is the current version\n"
    assert json.loads(deploy("-o", "json"))["notice"] == ""


def test_the_sdk_warns_unless_the_caller_chose(client):
    with pytest.warns(SkysailWarning, match="roll:1 is not the current version"):
        found = client.deploy(len)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_not_current(found, False, depth=0)
        client.is_current = True
        client.deploy(len)


def test_the_options_of_calls_reach_the_sdk(client):
    deploy()
    assert (client.arguments["batch"], client.arguments["max_concurrency"]) == (True, None)
    deploy("--no-batch", "--max-concurrency", "8")
    assert (client.arguments["batch"], client.arguments["max_concurrency"]) == (False, 8)

"""Common features of all services: health, reflection, help, settings and secrets."""

import asyncio
import json
import shutil
import subprocess
import sys

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from skysail.clusters.local.store import store_socket
from skysail_common.identifiers import ModelVersion
from skysail_common.store import Store
from skysail_common.store.embedded import server_url
from skysail_common.tokens import is_token_of
from skysail_protos.v1 import (
    management_pb2,
    query_pb2,
)
from skysail_testing import models
from skysail_testing.clusters import RunningCluster

FRONTEND = {"inference.GRPCInferenceService", "skysail.v1.QueryService"}
MANAGEMENT = {"skysail.v1.ManagementService"}
MODEL_SERVER = {"skysail.v1.ModelServer"}
# The client grpcio would send the path of a unix socket as :authority (docs/transports.md).
OPTIONS = [("grpc.default_authority", "localhost")]
EVERYWHERE = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.fixture(scope="module")
def addresses(cluster: RunningCluster, client) -> dict[str, set[str]]:
    client.deploy(models.double, name="served", version="1", example=np.ones((1, 3)))
    (replica,) = client.describe_version("served").replicas
    return {
        cluster.grpc: FRONTEND,
        cluster.management: MANAGEMENT,
        replica.endpoint: MODEL_SERVER,
    }


def test_reflection_lists_all_services(addresses):
    for address, services in addresses.items():
        with grpc.insecure_channel(address, OPTIONS) as channel:
            assert set(ProtoReflectionDescriptorDatabase(channel).get_services()) == (
                services | EVERYWHERE
            )


def test_every_service_is_healthy(addresses):
    for address, services in addresses.items():
        with grpc.insecure_channel(address, OPTIONS) as channel:
            for name in ("", *services):
                request = health_pb2.HealthCheckRequest(service=name)
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING, (address, name)


def test_grpcurl_works_by_reflection(cluster: RunningCluster, addresses):
    grpcurl = shutil.which("grpcurl")
    if grpcurl is None:
        pytest.skip("grpcurl is not installed")

    def ask(address: str, *arguments: str) -> str:
        done = subprocess.run(
            [grpcurl, "-plaintext", *arguments[:-1], address, arguments[-1]],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert set(ask(cluster.grpc, "list").split()) == FRONTEND | EVERYWHERE
    answer = ask(cluster.management, "skysail.v1.ManagementService/GetClusterStatus")
    # The parser accepts both spellings of field names, which differ between versions of grpcurl.
    status = json_format.Parse(answer, management_pb2.GetClusterStatusResponse())
    assert status.is_store_reachable
    data = "AAAAAAAA8D8AAAAAAAAAQAAAAAAAAAhA"
    request = {
        "target": "served",
        "inputs": [{"datatype": "DATA_TYPE_FP64", "shape": ["1", "3"], "data": data}],
    }
    answer = ask(cluster.grpc, "-d", json.dumps(request), "skysail.v1.QueryService/Predict")
    prediction = json_format.Parse(answer, query_pb2.PredictResponse())
    assert prediction.outcome == query_pb2.OUTCOME_OK
    assert prediction.version == "1"


@pytest.mark.parametrize("name", ["frontend", "management", "model_server"])
def test_every_service_prints_help_and_settings(name):
    help_text = _run(f"skysail_{name}", "--help").stdout
    assert "--log-level" in help_text
    flags = {
        "frontend": [],
        "management": ["--data-dir", "/nowhere"],
        "model_server": [
            "--management-endpoint=h:1", "--replica-id=m:1/0", "--token=very-secret",
        ],
    }[name]  # fmt: skip
    if name != "model_server":
        printed = _run(f"skysail_{name}", "--print-settings", *flags).stdout
        assert json.loads(printed)["log_level"] == "info"
    unknown = _run(f"skysail_{name}", *flags, "--nope", "1")
    assert unknown.returncode == 2
    assert "--nope" in unknown.stderr


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def secret_of(cluster: RunningCluster) -> str:
    store = Store(server_url(store_socket(cluster.data_dir)), "default")
    try:
        return await store.secret()
    finally:
        await store.close()


def test_secrets_are_written_only_to_the_store(cluster: RunningCluster, addresses, client):
    (replica,) = client.describe_version("served").replicas
    environment = psutil.Process(cluster.replica_pid(replica.container_id)).environ()
    secret, token = asyncio.run(secret_of(cluster)), environment["SKYSAIL_MODEL_SERVER_TOKEN"]
    sha256 = client.describe_version("served").artifact_sha256
    assert is_token_of(token, secret, ModelVersion("served", "1"), sha256)
    store = cluster.data_dir / "store"
    texts = {
        path: path.read_bytes()
        for path in cluster.data_dir.rglob("*")
        if path.is_file() and store not in path.parents
    }
    assert any(
        path.suffix == ".log" and b"replica is ready" in text for path, text in texts.items()
    )
    for value in (secret, token):
        assert [path for path, text in texts.items() if value.encode() in text] == []

"""The artifact port of management, which serves only artifacts and health."""

import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

import skysail
from skysail_common.artifacts import parse_manifest
from skysail_common.identifiers import ModelVersion
from skysail_common.store import Store
from skysail_common.tokens import replica_token
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import management_pb2_grpc
from skysail_testing import models
from skysail_testing.processes import Service
from skysail_testing.store_servers import StoreServer, embedded_command

SERVICE = "skysail.v1.ManagementService"


class Ports:
    def __init__(self, bound: dict[str, str], secret: str) -> None:
        self.admin = bound["grpc"]
        self.artifacts = bound["artifacts"]
        self.secret = secret
        self.sha256 = ""

    def token(self) -> str:
        return replica_token(self.secret, ModelVersion("m", "1"), self.sha256)

    def download_blob(self, sha256: str, token: str | None = None, offset: int = 0) -> bytes:
        with grpc.insecure_channel(self.artifacts) as channel:
            responses = management_pb2_grpc.ManagementServiceStub(channel).DownloadBlob(
                pb.DownloadBlobRequest(replica_id="m:1/0", sha256=sha256, offset=offset),
                metadata=(("authorization", f"Bearer {token or self.token()}"),),
                timeout=10,
            )
            return b"".join(response.chunk for response in responses)

    def download(self, endpoint: str, token: str | None = None) -> bytes:
        token = token or self.token()
        with grpc.insecure_channel(endpoint) as channel:
            responses = management_pb2_grpc.ManagementServiceStub(channel).DownloadArtifact(
                pb.DownloadArtifactRequest(replica_id="m:1/0"),
                metadata=(("authorization", f"Bearer {token}"),),
                timeout=10,
            )
            return b"".join(response.chunk for response in responses)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ports(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ports]:
    """Management with an artifact port and a deployed version."""
    directory = tmp_path_factory.mktemp("a")
    store = StoreServer(embedded_command, directory)
    await store.start()
    service = _management(directory, store.url)
    try:
        bound = service.wait_ready()
        reader = Store(store.url, "default")
        ports = Ports(bound, await reader.secret())
        await reader.close()
        with skysail.Client(ports.admin) as client:
            made = client.deploy(models.double, name="m", version="1", example=np.ones((1, 3)))
            ports.sha256 = made.artifact_sha256
        yield ports
    finally:
        assert service.stop() == 0, service.errors
        store.stop()


def _management(directory: Path, url: str) -> Service:
    flags = [
        "--data-dir", str(directory / "data"), "--skysail-redis-url", url, "--port", "0",
        "--artifact-port", "0", "--stop-replicas-on-exit",
    ]  # fmt: skip
    return Service("skysail_management", flags)


def test_a_replica_fetches_its_artifact_from_the_port(ports):
    assert ports.artifacts != ports.admin
    with skysail.Client(ports.admin) as client:
        (replica,) = client.describe_version("m", "1").replicas
    assert replica.state == "READY"


def test_the_port_serves_artifacts_only_with_the_right_token(ports):
    content = ports.download(ports.artifacts)
    assert hashlib.sha256(content).hexdigest() == ports.sha256
    for blob in parse_manifest(content).blobs:
        found = ports.download_blob(blob.sha256)
        assert hashlib.sha256(found).hexdigest() == blob.sha256
        assert ports.download_blob(blob.sha256, offset=1) == found[1:]
    with pytest.raises(grpc.RpcError) as raised:
        ports.download(ports.artifacts, token=secrets.token_hex(32))
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_port_serves_only_the_blobs_of_the_version(ports):
    blob = parse_manifest(ports.download(ports.artifacts)).blobs[0]
    wrong = {
        grpc.StatusCode.UNAUTHENTICATED: {"sha256": blob.sha256, "token": secrets.token_hex(32)},
        grpc.StatusCode.NOT_FOUND: {"sha256": "0" * 64},
        grpc.StatusCode.INVALID_ARGUMENT: {"sha256": blob.sha256, "offset": 2**63},
    }
    for code, arguments in wrong.items():
        with pytest.raises(grpc.RpcError) as raised:
            ports.download_blob(**arguments)
        assert raised.value.code() is code


def test_the_admin_port_no_longer_serves_artifacts(ports):
    with pytest.raises(grpc.RpcError) as raised:
        ports.download(ports.admin)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "management has an artifact port" in raised.value.details()


def test_the_port_refuses_every_other_method(ports):
    methods = pb.DESCRIPTOR.services_by_name["ManagementService"].methods_by_name
    assert len(methods) > 20
    with grpc.insecure_channel(ports.artifacts) as channel:
        for name in set(methods) - {"DownloadArtifact", "DownloadBlob"}:
            # Management refuses the method before it reads the malformed message.
            call = channel.stream_stream(f"/{SERVICE}/{name}")
            with pytest.raises(grpc.RpcError) as raised:
                list(call(iter([b"\xff"]), timeout=10))
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED, name


def test_the_port_refuses_large_messages(ports):
    with grpc.insecure_channel(ports.artifacts) as channel:
        call = channel.unary_stream(f"/{SERVICE}/DownloadArtifact")
        with pytest.raises(grpc.RpcError) as raised:
            list(call(bytes(3 * 1024 * 1024), timeout=10))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_port_serves_health(ports):
    with grpc.insecure_channel(ports.artifacts) as channel:
        for name in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=name)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

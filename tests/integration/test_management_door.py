"""Access to management: loopback, TLS with a token, or an explicit `--insecure`."""

import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

import skysail
from skysail import errors
from skysail_common.process.sockets import local_endpoint, split_host_port
from skysail_management.artifact_servicer import METHODS
from skysail_protos.v1 import management_pb2
from skysail_testing import models
from skysail_testing.certificates import Certificate
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.commands import skysail_command
from skysail_testing.processes import Service, eventually

ROW = np.ones((1, 3))
TOKEN = "the-token-of-all-operators"
SERVICE = management_pb2.DESCRIPTOR.services_by_name["ManagementService"]


@dataclass
class SecuredManagement:
    """A cluster whose management listens on all addresses, with TLS and a token."""

    cluster: RunningCluster
    ca_file: Path
    other_ca_file: Path

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{split_host_port(self.cluster.management)[1]}"

    def client(self, **options: object) -> skysail.Client:
        given = {"token": TOKEN, "management_tls_ca_file": self.ca_file} | options
        return skysail.Client(self.endpoint, timeout_s=10, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredManagement]:
    directory = tmp_path_factory.mktemp("g")
    authority = Certificate("authority")
    own = Certificate("management", authority)
    files = {
        "ca.pem": authority.pem,
        "other.pem": Certificate("another").pem,
        "tls.crt": own.pem,
        "tls.key": own.key,
        "token": f"{TOKEN}\n".encode(),
    }
    for name, content in files.items():
        (directory / name).write_bytes(content)
    patch = pytest.MonkeyPatch()
    patch.setenv("SKYSAIL_MANAGEMENT_TLS_CERTIFICATE_FILE", str(directory / "tls.crt"))
    patch.setenv("SKYSAIL_MANAGEMENT_TLS_KEY_FILE", str(directory / "tls.key"))
    patch.setenv("SKYSAIL_MANAGEMENT_TOKEN_FILE", str(directory / "token"))
    with running_cluster(directory / "a cluster", "--management-host", "0.0.0.0") as cluster:
        # The running cluster keeps these settings, but other tests must start without them.
        patch.undo()
        yield SecuredManagement(cluster, directory / "ca.pem", directory / "other.pem")


def test_a_client_with_token_and_authority_deploys(secured: SecuredManagement):
    assert split_host_port(secured.cluster.management)[0] == "0.0.0.0"
    with secured.client() as client:
        client.deploy(models.double, name="double", version="1", example=ROW)
        # A prediction proves that the frontend sends the token too.
        assert client.predict("double", ROW[0]).output.tolist() == [2.0, 2.0, 2.0]


def test_the_local_command_line_needs_only_the_token(secured: SecuredManagement, monkeypatch):
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(secured.cluster.data_dir))
    refused = skysail_command("status")
    assert refused.returncode == 1
    assert "it has no token or a wrong one" in refused.stderr
    assert "SKYSAIL_TOKEN" in refused.stderr
    monkeypatch.setenv("SKYSAIL_TOKEN", TOKEN)
    assert skysail_command("status").returncode == 0


@pytest.mark.parametrize("token", ["", "the-token-of-all-operatorz", TOKEN + "x"])
def test_a_wrong_token_is_refused(secured: SecuredManagement, token: str):
    with secured.client(token=token) as client, pytest.raises(errors.Unauthenticated):
        client.status()


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
@pytest.mark.parametrize("door", ["TLS", "socket"])
def test_every_method_needs_a_token(secured: SecuredManagement, method: str, door: str):
    credentials = grpc.ssl_channel_credentials(secured.ca_file.read_bytes())
    channel = (
        grpc.secure_channel(secured.endpoint, credentials)
        if door == "TLS"
        else grpc.insecure_channel(
            secured.cluster.socket, [("grpc.default_authority", "localhost")]
        )
    )
    # These methods check the token of a replica, so they need a valid message.
    message = (
        management_pb2.DownloadArtifactRequest(replica_id="m:1/0").SerializeToString()
        if method in METHODS
        else b""
    )
    with closing(channel), pytest.raises(grpc.RpcError) as raised:
        list(channel.stream_stream(f"/{SERVICE.full_name}/{method}")(iter([message]), timeout=10))
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("authority", [None, "other"])
def test_a_client_without_the_authority_gets_a_tls_error(
    secured: SecuredManagement, authority: str | None
):
    ca_file = secured.other_ca_file if authority else None
    with (
        secured.client(management_tls_ca_file=ca_file) as client,
        pytest.raises(errors.Unavailable, match=r"cannot connect to management at .*TLS"),
    ):
        client.status()


def test_a_restarted_management_has_the_same_tls_and_token(secured: SecuredManagement):
    pid = secured.cluster.service_pid("skysail_management")
    psutil.Process(pid).kill()

    def answers() -> bool:
        try:
            with secured.client() as client:
                return bool(client.status().frontends)
        except errors.Unavailable:
            return False

    eventually(answers, what="management is back, and the frontend follows it")
    with secured.client(token="") as client, pytest.raises(errors.Unauthenticated):
        client.status()


def test_the_host_of_the_frontend_does_not_expose_management(tmp_path: Path):
    with running_cluster(tmp_path, "--host", "0.0.0.0") as cluster:
        assert split_host_port(cluster.grpc)[0] == "0.0.0.0"
        # The advertised endpoint is no wildcard, because clients dial it and certificates name it.
        with cluster.client() as client:
            (frontend,) = client.status().frontends
            assert frontend.grpc_endpoint == local_endpoint(cluster.grpc)
            assert split_host_port(frontend.http_endpoint)[0] == "127.0.0.1"
        host, port = split_host_port(cluster.management)
        assert host == "127.0.0.1"
        for address in _other_addresses():
            with socket.socket() as connection:
                connection.settimeout(2)
                assert connection.connect_ex((address, port)) != 0


def _other_addresses() -> list[str]:
    found = [
        each.address
        for all_of in psutil.net_if_addrs().values()
        for each in all_of
        if each.family is socket.AF_INET
    ]
    return [address for address in found if not address.startswith("127.")]


@pytest.mark.parametrize("flags", [[], ["--detach"]])
def test_an_open_management_without_tls_is_an_error_of_one_line(tmp_path: Path, flags: list[str]):
    refused = skysail_command(
        "up", "--data-dir", str(tmp_path), "--management-host", "0.0.0.0", *flags
    )
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("skysail: cannot open management on 0.0.0.0")
    assert "--insecure" in line


def test_insecure_allows_an_open_management(tmp_path: Path):
    flags = ("--management-host", "0.0.0.0", "--insecure")
    with running_cluster(tmp_path, *flags) as cluster, cluster.client() as client:
        assert client.status().frontends


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--tls-certificate-file", "tls.crt", "--tls-key-file", "tls.key"],
        ["--token-file", "token"],
        [
            "--tls-certificate-file", "tls.crt", "--tls-key-file", "tls.key",
            "--token-file", "token", "--artifact-port", "0",
        ],
    ],
    ids=["nothing", "TLS alone", "a token alone", "a port of artifacts in the clear"],
)  # fmt: skip
def test_the_service_refuses_incomplete_security(tmp_path: Path, flags: list[str], monkeypatch):
    own = Certificate("management", Certificate("authority"))
    (tmp_path / "tls.crt").write_bytes(own.pem)
    (tmp_path / "tls.key").write_bytes(own.key)
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.chdir(tmp_path)
    base = ["--data-dir", str(tmp_path / "data"), "--port", "0", "--host", "0.0.0.0"]
    service = Service("skysail_management", [*base, *flags])
    assert service.wait(30) == 1
    assert "cannot open management on 0.0.0.0" in service.errors
    assert not (tmp_path / "data").exists()

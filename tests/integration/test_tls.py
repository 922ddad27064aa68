"""TLS of frontends: clients, renewal of certificates, and errors."""

import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

import skysail
from skysail import errors
from skysail.settings import CLUSTER_FILE
from skysail_common.rpc.certificates import ServerCertificates
from skysail_testing import models
from skysail_testing.certificates import HERE, Certificate
from skysail_testing.client_programs import assert_passes
from skysail_testing.clusters import RunningCluster
from skysail_testing.processes import Service, eventually

ROW = np.ones((1, 3))


@dataclass
class Secured:
    """A frontend with TLS, and the files of its clients."""

    directory: Path
    bound: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    authority: Certificate = field(default_factory=lambda: Certificate("authority"))

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.pem"

    def client(self, **options: object) -> skysail.Client:
        options = {"tls_ca_file": self.ca_file, "query_endpoint": self.bound["grpc"]} | options
        return skysail.Client("127.0.0.1:1", **options)  # type: ignore[arg-type]

    def refusal(self, **options: object) -> str:
        """Return the error message of a client that is refused."""
        begin = time.monotonic()
        with self.client(**options) as client, pytest.raises(errors.SkysailError) as caught:
            client.predict("secured", [1, 2, 3])
        assert type(caught.value) is errors.FailedPrecondition, caught.value
        assert time.monotonic() - begin < 10
        return caught.value.message


@contextmanager
def frontend(
    cluster: RunningCluster, directory: Path, names: Sequence[str] = HERE, **environment: str
) -> Iterator[Secured]:
    secured = Secured(directory)
    secured.ca_file.write_bytes(secured.authority.pem)
    chain, key = Certificate("server", secured.authority, names=names).write(directory / "tls")
    secured.environment = {
        "SKYSAIL_FRONTEND_MANAGEMENT_ENDPOINT": cluster.management,
        "SKYSAIL_FRONTEND_TLS_CERTIFICATE_FILE": str(chain),
        "SKYSAIL_FRONTEND_TLS_KEY_FILE": str(key),
        "SKYSAIL_FRONTEND_TLS_CHECK_EVERY_S": "0.05",
        **{f"SKYSAIL_FRONTEND_{name}_PORT": "0" for name in ("GRPC", "HTTP", "METRICS")},
        **environment,
    }
    service = Service("skysail_frontend", [], secured.environment)
    try:
        secured.bound = service.wait_ready()
        page = f"http://{secured.bound['metrics']}"
        eventually(lambda: httpx.get(f"{page}/ready").status_code == 200, what="it has routes")
        yield secured
    finally:
        status = service.stop()
    assert status == 0, service.errors
    assert "unhandled exception" not in service.errors
    assert "background task failed" not in service.errors


@pytest.fixture(scope="module")
def model(cluster: RunningCluster, client: skysail.Client) -> Iterator[RunningCluster]:
    client.deploy(models.double, name="secured", version="1", example=ROW)
    yield cluster
    client.undeploy("secured", force=True)


@pytest.fixture(scope="module")
def secured(model: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with frontend(model, tmp_path_factory.mktemp("tls")) as secured:
        yield secured


@pytest.fixture
def own(model: RunningCluster, tmp_path: Path) -> Iterator[Secured]:
    """A frontend whose certificates a test may renew."""
    with frontend(model, tmp_path, SKYSAIL_FRONTEND_WORKERS="2") as secured:
        yield secured


def ssl_context_for(ca: Path, *own: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    # Python 3.13 checks extensions that the certificates of these tests lack.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if own:
        context.load_cert_chain(*own)
    return context


def test_the_sdk_and_the_command_line_use_tls(secured: Secured, cluster: RunningCluster):
    with secured.client() as client:
        answers = client.predict_batch("secured", np.arange(300.0).reshape(100, 3))
        assert answers[99].output.tolist() == [594.0, 596.0, 598.0]
    variables = {"SKYSAIL_TLS_CA_FILE": str(secured.ca_file)}
    # The command asks management without TLS for the frontend.
    arguments = ["predict", "secured", "[1, 2, 3]", "--endpoint", cluster.management]
    done = subprocess.run(
        [sys.executable, "-m", "skysail", *arguments],
        env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[2.0, 4.0, 6.0]" in done.stdout


def test_tritonclient_in_its_own_process(secured: Secured):
    program = """
        import sys, numpy as np, tritonclient.grpc as triton
        client = triton.InferenceServerClient(sys.argv[1], ssl=True, root_certificates=sys.argv[2])
        assert client.is_server_ready() and client.is_model_ready("secured")
        tensor = triton.InferInput("x", [2, 3], "FP64")
        tensor.set_data_from_numpy(np.arange(6.0).reshape(2, 3))
        result = client.infer("secured", [tensor], client_timeout=10)
        assert result.as_numpy("output").tolist() == [[0, 2, 4], [6, 8, 10]]
        print("passed")
    """
    assert_passes(program, secured.bound["grpc"], str(secured.ca_file))


def test_http_clients_use_tls(secured: Secured):
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}
    url = f"https://{secured.bound['http']}/v2/models/secured/infer"
    answer = httpx.post(url, json=body, verify=ssl_context_for(secured.ca_file)).json()
    assert answer["outputs"][0]["data"] == [2, 4, 6]
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.post(url, json=body)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(url.replace("https", "http"))


def test_each_client_mistake_has_its_error(
    secured: Secured, cluster: RunningCluster, tmp_path: Path
):
    endpoint = secured.bound["grpc"]
    assert f"{endpoint} wants TLS; give tls_ca_file" in secured.refusal(tls_ca_file=None)
    assert f"{cluster.grpc} does not speak TLS" in secured.refusal(query_endpoint=cluster.grpc)
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(Certificate("stranger").pem)
    refusal = secured.refusal(tls_ca_file=stranger)
    assert f"the certificate of {endpoint} is not accepted: unable to get local" in refusal
    assert str(stranger) in refusal
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKYSAIL_TLS_SERVER_NAME", "other.example")
        refusal = secured.refusal()
    assert "is not accepted: Hostname mismatch" in refusal
    assert "SKYSAIL_FRONTEND_ADVERTISED_GRPC_ENDPOINT" in refusal
    with secured.client(query_endpoint="127.0.0.1:1") as client:
        with pytest.raises(errors.Unavailable, match="no frontend is reached at"):
            client.predict("secured", [1, 2, 3])


def test_new_connections_see_renewed_certificates(own: Secured):
    """Both workers renew their certificates for HTTP and gRPC."""
    files = own.directory / "tls"
    url = f"https://{own.bound['http']}/v2/health/live"

    def problems() -> list[str]:
        """Return the errors of several new connections."""
        found = []
        for _ in range(8):
            try:
                httpx.get(url, verify=ssl_context_for(own.ca_file))
            except httpx.ConnectError as error:
                found.append(str(error))
        return found

    with own.client() as client:
        client.predict("secured", [1, 2, 3])
        assert problems() == []
        for bad, says in (
            (Certificate("server", own.authority, days=-1), "certificate has expired"),
            (Certificate("server", own.authority, names=["elsewhere"]), "IP address mismatch"),
        ):
            bad.write(files)
            eventually(
                lambda says=says: sum(says in each for each in problems()) == 8,
                what="both workers show it",
            )
            eventually(lambda says=says: says in own.refusal(), what="so does gRPC")
        # Existing connections stay open.
        assert client.predict("secured", [1, 2, 3]).outcome == "OK"
        (files / "..data" / "tls.crt").write_text("not a certificate")
        Certificate("server", own.authority).write(files)
        eventually(lambda: problems() == [], what="both workers show the good one")
    with own.client() as client:
        assert client.predict("secured", [1, 2, 3]).outcome == "OK"


def test_mutual_tls_needs_a_client_certificate(model: RunningCluster, tmp_path: Path):
    others = Certificate("authority of clients")
    (tmp_path / "clients.pem").write_bytes(others.pem)
    certificate, key = Certificate("client", others).write(tmp_path / "client")
    variables = {
        "SKYSAIL_FRONTEND_TLS_CLIENT_CA_FILE": str(tmp_path / "clients.pem"),
        "SKYSAIL_TRANSPORT": "grpc",
    }
    with frontend(model, tmp_path, **variables) as secured:
        own = {"tls_certificate_file": certificate, "tls_key_file": key}
        with secured.client(**own) as client:
            assert client.predict("secured", [1, 2, 3]).output.tolist() == [2, 4, 6]
        assert "wants a certificate of the client" in secured.refusal()
        certificate, key = Certificate("stranger", secured.authority).write(tmp_path / "stranger")
        own = {"tls_certificate_file": certificate, "tls_key_file": key}
        assert f"does not accept the certificate {certificate}" in secured.refusal(**own)
        url = f"https://{secured.bound['http']}/v2/health/live"
        with_own = ssl_context_for(
            secured.ca_file, *(tmp_path / "client" / f"tls.{n}" for n in ("crt", "key"))
        )
        assert httpx.get(url, verify=with_own).status_code == 200
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            httpx.get(url, verify=ssl_context_for(secured.ca_file))


def test_health_check_and_probes_work_with_tls(secured: Secured):
    port = secured.bound["metrics"].rpartition(":")[2]
    environment = os.environ | secured.environment | {"SKYSAIL_FRONTEND_METRICS_PORT": port}
    command = [sys.executable, "-m", "skysail_frontend.health_check"]
    assert subprocess.run(command, env=environment, timeout=20, check=False).returncode == 0
    page = f"http://{secured.bound['metrics']}"
    assert [httpx.get(f"{page}/{each}").status_code for each in ("live", "ready")] == [200, 200]


def test_each_invalid_file_has_its_error(tmp_path: Path):
    authority = Certificate("authority")
    server = Certificate("server", authority)
    chain, key = server.write(tmp_path / "good")
    other = tmp_path / "other"

    def refusal(*files: Path, content: bytes = b"") -> str:
        other.write_bytes(content)
        with pytest.raises(errors.FailedPrecondition) as caught:
            ServerCertificates(*files)
        return caught.value.message

    none = tmp_path / "none"
    assert (
        refusal(none, key) == f"cannot read {none}: no such file or directory; TLS needs this file"
    )
    assert f"cannot read {none}: " in refusal(chain, none)
    assert f"cannot read {none}: " in refusal(chain, key, none)
    assert refusal(other, key) == f"{other} contains no certificate in PEM"
    assert refusal(chain, other) == f"{other} contains no private key in PEM"
    text = refusal(chain, other, content=authority.key)
    assert text == f"{other} is not the key of the certificate {chain}"
    text = refusal(chain, other, content=server.key_with_pass_phrase())
    assert text == f"the key {other} has a pass phrase; use a key without one"
    text = refusal(chain, key, other, content=server.key)
    assert text == f"{other} contains no certificate of an authority in PEM"

    def mistake(**files: Path) -> str:
        with pytest.raises(errors.FailedPrecondition) as caught:
            skysail.Client(**files)  # type: ignore[arg-type]
        return caught.value.message

    assert f"cannot read {none}" in mistake(tls_ca_file=none)
    other.write_bytes(server.key_with_pass_phrase())
    assert f"{other} has no certificate" in mistake(tls_ca_file=other)
    assert "tls_key_file is missing" in mistake(tls_ca_file=chain, tls_certificate_file=chain)
    assert "do not go over TLS" in mistake(tls_certificate_file=chain, tls_key_file=key)
    text = mistake(tls_ca_file=chain, tls_certificate_file=chain, tls_key_file=other)
    assert re.search(f"{chain} and {other} are no certificate and its key", text)


def test_a_frontend_with_invalid_tls_settings_exits(tmp_path: Path):
    chain, key = (str(each) for each in Certificate("server").write(tmp_path))
    for flags, status, says in (
        ([f"--tls-certificate-file={chain}"], 2, "--tls-key-file is not; give both"),
        ([f"--tls-client-ca-file={chain}"], 2, "--tls-client-ca-file needs"),
        (
            [f"--tls-certificate-file={key}", f"--tls-key-file={key}"],
            1,
            f"{key} contains no certif",
        ),
    ):
        with ExitStack() as stack:
            service = Service("skysail_frontend", [*flags, "--workers", "2"])
            stack.callback(service.stop)
            assert service.process.wait(60) == status
            eventually(lambda service=service, says=says: says in service.errors)


NAME = "skysail-frontend.models.svc"


@pytest.fixture
def forwarded(model: RunningCluster, tmp_path: Path) -> Iterator[Secured]:
    """A frontend behind forwarded ports: clients dial 127.0.0.1, which its certificate lacks."""
    with frontend(model, tmp_path, (NAME,)) as secured:
        yield secured


def test_the_server_name_setting_replaces_the_host_name(forwarded: Secured, monkeypatch):
    assert "127.0.0.1" in forwarded.refusal()
    monkeypatch.setenv("SKYSAIL_TLS_SERVER_NAME", NAME)
    with forwarded.client() as client:
        assert list(client.predict("secured", [1, 2, 3]).output) == [2, 4, 6]
    monkeypatch.setenv("SKYSAIL_TLS_SERVER_NAME", "another.example")
    assert "another.example" in forwarded.refusal()


def test_the_server_name_of_the_cluster_file_is_used(forwarded: Secured, monkeypatch):
    note = {"management": "127.0.0.1:1", "grpc": forwarded.bound["grpc"], "server_name": NAME}
    (forwarded.directory / CLUSTER_FILE).write_text(json.dumps(note))
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(forwarded.directory))
    with skysail.Client(tls_ca_file=forwarded.ca_file) as client:
        assert list(client.predict("secured", [1, 2, 3]).output) == [2, 4, 6]

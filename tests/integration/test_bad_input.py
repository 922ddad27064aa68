"""Bad input gets a clear error that names the thing, and nothing else happens."""

import json
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import pytest

import skysail
from skysail import errors
from skysail_testing import models
from skysail_testing.artifacts import artifacts_in
from skysail_testing.clusters import RunningCluster
from skysail_testing.commands import skysail_command
from skysail_testing.processes import Service, eventually

ROW = np.ones((1, 3))
NAMES_OF_PORTS = ("http", "grpc", "metrics", "management")


@pytest.fixture(scope="module")
def fussy(client: skysail.Client) -> str:
    client.deploy(models.fussy, name="fussy", version="1", example=ROW)
    return "fussy"


def unique(name: str) -> str:
    return f"{name}-{time.monotonic_ns()}"


class TestNames:
    def test_unknown_target(self, client):
        with pytest.raises(
            errors.NotFound, match="no application and no deployed model is called 'nope'"
        ):
            client.predict("nope", [1])

    def test_unknown_version(self, client, fussy):
        with pytest.raises(errors.ModelNotFound, match="'fussy' version 9"):
            client.predict("fussy", [1, 2, 3], version="9")

    def test_unknown_application_over_rest(self, cluster):
        answer = httpx.post(f"http://{cluster.http}/nope/predict", json={"input": [1]})
        assert answer.status_code == 404
        assert answer.json()["cause"] == "application 'nope' is not registered"

    @pytest.mark.parametrize("name", ["", "a/b", "a:b", "-a", "ä", "x" * 64, "../x"])
    def test_illegal_names_of_models(self, client, name):
        with pytest.raises(errors.InvalidInput, match="is not a legal name"):
            client.deploy(models.double, name=name, version="1", example=ROW)

    @pytest.mark.parametrize("name", ["", "a b", "v2", "metrics"])
    def test_illegal_names_of_applications(self, client, name):
        with pytest.raises(errors.InvalidInput):
            client.register_application(name)

    def test_unknown_model_or_application_to_link(self, client):
        name = unique("app")
        client.register_application(name)
        with pytest.raises(errors.ModelNotFound, match="'nope' is not registered"):
            client.link(name, "nope")
        with pytest.raises(errors.ApplicationNotFound, match="'nope' is not registered"):
            client.link("nope", "fussy")

    def test_nothing_to_promote_or_roll_back(self, client, fussy):
        with pytest.raises(errors.ModelNotFound):
            client.promote("fussy", "9")
        with pytest.raises(errors.FailedPrecondition, match="it has no previous version"):
            client.rollback("fussy")


class TestInputs:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (
                [1, 2],
                r"unexpected shape for input 'x' for model 'fussy': predict takes one input of "
                r"shape \[3\], got \[2\]; for many use predict_batch$",
            ),
            ([[1, 2, 3]], r"of shape \[3\], got \[1,3\]; for many use predict_batch$"),
            ("text", "tensor 'x' has datatype BYTES, which cannot become FP64"),
            ({"y": [1, 2, 3]}, "unexpected inference input 'y' for model 'fussy'"),
            ({"x": [1, 2, 3], "y": [1]}, "unexpected inference input 'y'"),
            ([1, [2, 3]], "is not usable"),
        ],
    )
    def test_wrong_type_shape_or_name(self, client, fussy, value, message):
        with pytest.raises(errors.InvalidInput, match=message):
            client.predict("fussy", value)

    @pytest.mark.parametrize(
        ("bad", "kind", "message"),
        [
            ([1, 2], errors.InvalidInput, r"predict_batch takes inputs of shape \[3\], got \[2\]$"),
            ("text", errors.InvalidInput, "cannot become FP64"),
            ([-1, 0, 0], errors.ModelFailed, r"not welcome \(in fussy, line 3 of its code\)$"),
        ],
    )
    def test_a_bad_input_of_many_is_named(self, client, fussy, bad, kind, message):
        with pytest.raises(kind, match=f"^input 3: .*{message}"):
            client.predict_batch("fussy", [[1, 2, 3]] * 3 + [bad] + [[1, 2, 3]])

    def test_integers_are_accepted_where_doubles_are_expected(self, client, fussy):
        assert client.predict("fussy", [1, 2, 3]).output.tolist() == [1, 2, 3]

    def test_application_of_another_input_type(self, client, fussy):
        name = unique("texts")
        client.register_application(name, "strings")
        with pytest.raises(errors.InputTypeMismatch, match="takes strings, but"):
            client.link(name, "fussy")

    def test_malformed_json(self, cluster, client, fussy):
        name = unique("app")
        client.register_application(name)
        client.link(name, "fussy")
        url = f"http://{cluster.http}/{name}/predict"
        for body in (b"{", b"", b"[1, 2]", b'{"x": 1}', b'{"input": [1], "input_batch": [[1]]}'):
            answer = httpx.post(url, content=body)
            assert answer.status_code == 400, body
            assert answer.json()["error"] == "Json error"
            assert "JSON" in answer.json()["cause"]
        answer = httpx.post(f"http://{cluster.http}/v2/models/fussy/infer", content=b"{")
        assert answer.status_code == 400
        assert "Error parsing JSON" in answer.json()["error"]

    @pytest.mark.transport
    @pytest.mark.parametrize(
        "method",
        ["/skysail.v1.QueryService/Predict", "/inference.GRPCInferenceService/ModelInfer"],
    )
    def test_malformed_protobuf(self, cluster, method):
        with grpc.insecure_channel(cluster.grpc) as channel:
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(method)(b"\xff\xff\xff", timeout=10)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "Unable to parse request" in raised.value.details()

    @pytest.mark.transport
    def test_unknown_method(self, cluster):
        with grpc.insecure_channel(cluster.grpc) as channel:
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary("/skysail.v1.QueryService/Nope")(b"", timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_body_of_100_mb(self, cluster, client, fussy):
        name = unique("app")
        client.register_application(name)
        client.link(name, "fussy")
        body = b'{"input": [' + b"1," * 50_000_000 + b"1]}"
        answer = httpx.post(f"http://{cluster.http}/{name}/predict", content=body, timeout=60)
        assert answer.status_code == 413
        assert "the limit is 67108864" in answer.json()["cause"]

    @pytest.mark.transport
    def test_message_of_100_mb(self, cluster):
        with (
            grpc.insecure_channel(cluster.grpc, [("grpc.max_send_message_length", -1)]) as channel,
            pytest.raises(grpc.RpcError) as raised,
        ):
            channel.unary_unary("/skysail.v1.QueryService/Predict")(bytes(100_000_000), timeout=60)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class TestFunctions:
    def test_unpicklable_function_is_refused_with_its_object(self, client):
        lock = threading.Lock()

        def predict(x):
            with lock:
                return x

        with pytest.raises(
            errors.InvalidInput, match=r"cannot pickle the function: lock \(a lock\)"
        ):
            client.deploy(predict, name=unique("locked"), version="1", example=ROW)

    def test_function_that_fails_on_the_example(self, client):
        with pytest.raises(errors.ModelFailed, match="ValueError: negative numbers"):
            client.deploy(models.fussy, name=unique("m"), version="1", example=-ROW)

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (models.FailsToLoad(), "RuntimeError: the weights are missing"),
            (models.FailsInWarmUp(), "RuntimeError: no GPU here"),
        ],
    )
    def test_deploy_fails_within_ten_seconds_with_the_traceback(
        self, client, cluster, function, message
    ):
        name = unique("broken")
        begin = time.monotonic()
        with pytest.raises(errors.DeployFailed) as raised:
            client.deploy(function, name=name, version="1", example=ROW, num_replicas=2)
        assert time.monotonic() - begin < 10
        assert message in str(raised.value)
        assert "Traceback (most recent call last)" in str(raised.value)
        assert str(raised.value).count(message) == 1
        assert "skysail_model_server" not in str(raised.value)
        assert name not in [model.name for model in client.models()]
        with pytest.raises(errors.ModelNotFound):
            client.describe_model(name)

        def nothing_left():
            return not any(name in path.name for path in (cluster.data_dir / "replicas").iterdir())

        eventually(nothing_left, what="no replica of the failed deployment is left")
        kept = {version.artifact_sha256 for m in client.models() for version in m.versions}
        eventually(
            lambda: set(artifacts_in(cluster.data_dir)) <= kept,
            what="no artifact of the failed deployment is left",
        )

    def test_failed_version_can_be_deployed_again(self, client):
        name = unique("mended")
        with pytest.raises(errors.DeployFailed):
            client.deploy(models.FailsInWarmUp(), name=name, version="1", example=ROW)
        client.deploy(models.double, name=name, version="1", example=ROW)
        assert client.predict(name, [1, 2, 3]).output.tolist() == [2, 4, 6]

    @pytest.mark.transport
    def test_one_bad_query_fails_alone_and_the_replica_lives(self, client, fussy):
        before = client.describe_version("fussy").replicas
        with pytest.raises(errors.ModelFailed, match="ValueError: negative numbers are not"):
            client.predict("fussy", [-1, 2, 3])
        assert client.predict("fussy", [1, 2, 3]).outcome == "OK"
        assert client.describe_version("fussy").replicas == before

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (models.one_too_few, "returned 0 rows in output 'output' for 1 rows of input"),
            (models.changes_type, r"returned shape \[1\] in output 'output'; its signature says"),
        ],
    )
    def test_output_of_wrong_length_or_type(self, client, function, message):
        name = unique("odd")
        client.deploy(function, name=name, version="1", example=ROW)
        with pytest.raises(errors.ModelFailed, match=message):
            client.predict(name, [1, 2, 7])
        assert client.predict(name, [1, 2, 3]).outcome == "OK"
        assert client.describe_version(name).replicas[0].num_restarts == 0

    def test_duplicate_version(self, client):
        name = unique("twice")
        client.deploy(models.Constant(1.0), name=name, version="1", example=ROW)
        replicas = client.describe_version(name).replicas
        client.deploy(models.Constant(1.0), name=name, version="1", example=ROW)
        assert client.describe_version(name).replicas == replicas
        with pytest.raises(errors.AlreadyExists, match=f"{name}:1"):
            client.deploy(models.Constant(2.0), name=name, version="1", example=ROW)
        assert client.predict(name, [1, 2, 3]).output == 1.0

    def test_package_that_does_not_exist(self, client):
        name = unique("needy")
        with pytest.raises(errors.DeployFailed, match="cannot install the requirements") as raised:
            client.deploy(
                models.double,
                name=name,
                version="1",
                example=ROW,
                pkgs_to_install=["/no/such/package-1.0-py3-none-any.whl"],
            )
        assert "/no/such/package-1.0-py3-none-any.whl" in str(raised.value)
        assert name not in [model.name for model in client.models()]


class TestOperators:
    def test_port_in_use(self, own_dir):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]

            def up(*flags: str) -> str:
                ports = {f"--{name}-port": "0" for name in NAMES_OF_PORTS}
                for flag in flags:
                    ports[flag] = str(port)
                words = [word for pair in ports.items() for word in pair]
                done = skysail_command("up", "--data-dir", str(own_dir / "".join(flags)), *words)
                assert done.returncode == 1
                return done.stderr

            flags = [f"--{name}-port" for name in NAMES_OF_PORTS]
            with ThreadPoolExecutor() as pool:
                for flag, told in zip(flags, pool.map(up, flags), strict=True):
                    assert told == (
                        f"skysail: port {port} of 127.0.0.1 is in use; choose another with {flag}\n"
                    )
        same = up("--http-port", "--grpc-port")
        assert same.endswith("is in use; choose another with --grpc-port\n")

    def test_data_directory_in_use(self, cluster: RunningCluster):
        done = skysail_command(
            "up", "--data-dir", str(cluster.data_dir), "--http-port", "0", "--metrics-port", "0"
        )
        assert done.returncode == 1
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1
        assert f"is in use by another cluster (process {cluster.pid})" in lines[0]

    def test_store_that_does_not_answer(self, own_dir):
        service = Service(
            "skysail_management",
            ["--data-dir", str(own_dir), "--port", "0"],
            {"SKYSAIL_REDIS_URL": "redis://127.0.0.1:1/0"},
        )
        assert service.wait() == 69
        assert "the store does not answer" in service.errors
        assert "SKYSAIL_REDIS_URL is its address" in service.errors

    def test_unknown_container_manager(self, own_dir):
        flags = ["--data-dir", str(own_dir), "--container-manager", "raft"]
        service = Service("skysail_management", flags)
        assert service.wait() == 1
        assert (
            "cannot find container manager 'raft'; installed are docker, kubernetes, "
            "local" in service.errors
        )

    def test_no_cluster_to_talk_to(self):
        text = (
            "no management runs at 127.0.0.1:1; start a cluster with 'skysail up', or if one runs, "
            "its log says why"
        )
        done = skysail_command("status", "--endpoint", "127.0.0.1:1")
        assert (done.returncode, done.stderr) == (1, f"skysail: {text}\n")
        with skysail.Client("127.0.0.1:1") as client:
            for call in (lambda: client.predict("m", 1), client.status):
                with pytest.raises(errors.Unavailable) as raised:
                    call()
                assert str(raised.value) == text
                # The traceback shows neither the error of gRPC nor frames of the client.
                assert raised.value.__suppress_context__
                assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "checking"

    @pytest.mark.parametrize("door", ["grpc", "http"])
    def test_an_endpoint_that_is_not_managements(self, cluster, door):
        endpoint = getattr(cluster, door)
        with skysail.Client(endpoint) as client:
            with pytest.raises(errors.SkysailError, match=f"^{endpoint} is not a management endp"):
                client.status()

    def test_corrupt_upload_is_refused(self, cluster):
        from skysail_protos.v1 import management_pb2, management_pb2_grpc

        parts = [
            management_pb2.UploadArtifactRequest(sha256="0" * 64),
            management_pb2.UploadArtifactRequest(chunk=b"something else"),
        ]
        with grpc.insecure_channel(cluster.management) as channel:
            stub = management_pb2_grpc.ManagementServiceStub(channel)
            with pytest.raises(grpc.RpcError) as raised:
                stub.UploadArtifact(iter(parts), timeout=10)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "the artifact is corrupt" in raised.value.details()
            for sha256 in ("../../etc/passwd", "ABC", "0" * 63):
                with pytest.raises(grpc.RpcError) as raised:
                    stub.FindArtifact(management_pb2.FindArtifactRequest(sha256=sha256), timeout=10)
                assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    def test_artifact_is_only_for_its_replicas(self, cluster, client, fussy):
        from skysail_protos.v1 import management_pb2, management_pb2_grpc

        with grpc.insecure_channel(cluster.management) as channel:
            stub = management_pb2_grpc.ManagementServiceStub(channel)
            request = management_pb2.DownloadArtifactRequest(replica_id="fussy:1/0")
            for metadata in ((), (("authorization", "Bearer " + "0" * 64),)):
                with pytest.raises(grpc.RpcError) as raised:
                    list(stub.DownloadArtifact(request, metadata=metadata, timeout=10))
                assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED

    def test_more_replicas_than_allowed(self, client, fussy):
        with pytest.raises(errors.InvalidInput, match="at most 1000"):
            client.scale("fussy", 1001)
        with pytest.raises(errors.InvalidInput, match="from 1 to 1000"):
            client.deploy(models.double, name=unique("m"), version="1", example=ROW, num_replicas=0)

    def test_default_output_that_is_no_json(self, cluster):
        flags = ["--endpoint", cluster.management]
        done = skysail_command("apps", "register", "x", "--default-output", "{", *flags)
        assert done.returncode == 1
        assert "cannot use the default output: it is not JSON" in done.stderr

    def test_version_that_is_routed_cannot_be_removed(self, client, fussy):
        name = unique("app")
        client.register_application(name)
        client.link(name, "fussy")
        with pytest.raises(errors.ModelInUse, match="is routed to model 'fussy:1'"):
            client.undeploy("fussy")
        with pytest.raises(errors.ModelInUse):
            client.unregister_model("fussy")
        client.unregister_application(name)


def test_status_of_everything_can_be_read_as_json(cluster):
    done = skysail_command("status", "--endpoint", cluster.management, "--output", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["is_store_reachable"] is True

"""A cluster that listens on an IPv6 address."""

import socket
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

import skysail
from skysail_common.process.sockets import join_host_port, split_host_port
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.inference import grpc_service_pb2_grpc as oip_grpc
from skysail_testing import models
from skysail_testing.clusters import running_cluster
from skysail_testing.commands import skysail_command
from skysail_testing.metrics_page import scrape


def _has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


pytestmark = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")

ROW = np.ones((1, 3))


def advertised(endpoint: str) -> str:
    """Return the endpoint that a frontend advertises; clients cannot dial a wildcard address."""
    host, port = split_host_port(endpoint)
    return join_host_port("::1" if host == "::" else host, port)


@pytest.mark.parametrize(
    ("host", "workers", "dialled"),
    [("::1", "1", "::1"), ("[::1]", "2", "::1"), ("::", "1", "::1"), ("::", "2", "127.0.0.1")],
)
def test_every_port_listens_on_ipv6(tmp_path: Path, host: str, workers: str, dialled: str):
    hosts = ("--host", host, "--management-host", host)
    with running_cluster(tmp_path, *hosts, "--insecure", "--workers", workers) as cluster:

        def reached(endpoint: str) -> str:
            bound, port = split_host_port(endpoint)
            assert bound == host.strip("[]")
            return join_host_port(dialled, port)

        with skysail.Client(reached(cluster.management)) as client:
            client.deploy(models.double, name="double", version="1", example=ROW)
            # The client uses the endpoint that the frontend advertises.
            assert list(client.predict("double", [1, 2, 3]).output) == [2, 4, 6]
            frontends = client.status().frontends
            assert {each.grpc_endpoint for each in frontends} == {advertised(cluster.grpc)}
            assert {each.http_endpoint for each in frontends} == {advertised(cluster.http)}
        shown = skysail_command("status", "--endpoint", reached(cluster.management))
        assert shown.returncode == 0, shown.stderr
        with grpc.insecure_channel(reached(cluster.grpc)) as channel:
            message = oip.ModelInferRequest(model_name="double", raw_input_contents=[ROW.tobytes()])
            message.inputs.add(name="x", datatype="FP64", shape=[1, 3])
            answer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=10)
            assert answer.raw_output_contents[0] == (2 * ROW).tobytes()
        tensor = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 1, 1]}
        url = f"http://{reached(cluster.http)}/v2/models/double/infer"
        assert httpx.post(url, json={"inputs": [tensor]}).json()["outputs"][0]["data"] == [2, 2, 2]
        page = scrape(reached(cluster.metrics))
        assert page.by("outcome", "skysail_queries_total", model="double") == {"OK": 3}


def test_a_port_in_use_is_named_with_its_flag(tmp_path: Path):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = str(taken.getsockname()[1])
        flags = ("--data-dir", str(tmp_path), "--host", "::1", "--http-port", port)
        refused = skysail_command("up", "--detach", *flags)
    assert refused.returncode == 1
    assert f"port {port} of ::1 is in use; choose another with --http-port" in refused.stderr

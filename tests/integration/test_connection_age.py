"""Clients reconnect at the maximum connection age and lose no query."""

import pytest

from skysail_common.rpc.transports import uses_native
from skysail_testing import models
from skysail_testing.clusters import running_cluster
from skysail_testing.metrics_page import scrape

NUM_CONNECTIONS = 4


def test_the_stream_of_the_python_client_is_renewed(tmp_path, monkeypatch, request):
    if not uses_native(request.config.getoption("--transport")):
        pytest.skip("grpc.aio does not count its connections")
    monkeypatch.setenv("SKYSAIL_FRONTEND_MAX_CONNECTION_AGE_S", "0.2")
    with running_cluster(tmp_path / "c") as cluster, cluster.client() as client:
        client.deploy(models.double, name="d", version="1", example=[[0.0]])

        def num_connections() -> float:
            return scrape(cluster.metrics).sum("skysail_transport_connections_accepted_total")

        before, number = num_connections(), 0.0
        while num_connections() < before + NUM_CONNECTIONS:
            number += 1
            assert client.predict("d", [number], timeout_s=10).output.tolist() == [2 * number]
            assert number < 5000, "the stream stays where it is"

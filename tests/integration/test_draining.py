"""Probes of a draining frontend."""

import signal
from contextlib import closing
from http.client import HTTPConnection

from skysail_testing.clusters import RunningCluster
from skysail_testing.processes import Service, eventually


def test_a_frontend_that_drains_is_not_ready(cluster: RunningCluster):
    ports = [part for name in ("grpc", "http", "metrics") for part in (f"--{name}-port", "0")]
    frontend = Service("skysail_frontend", ["--management-endpoint", cluster.management, *ports])
    try:
        bound = frontend.wait_ready()
        # Both connections stay open because a draining frontend accepts no new ones.
        with (
            closing(HTTPConnection(bound["http"], timeout=10)) as http,
            closing(HTTPConnection(bound["http"], timeout=10)) as live,
        ):

            def status(connection: HTTPConnection, path: str) -> int:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                return answer.status

            eventually(lambda: status(http, "/v2/health/ready") == 200, what="it has routes")
            assert status(live, "/v2/health/live") == 200
            frontend.process.send_signal(signal.SIGTERM)
            eventually(lambda: "draining" in frontend.errors, what="it drains")
            assert status(http, "/v2/health/ready") == 400
            assert status(live, "/v2/health/live") == 200
    finally:
        assert frontend.stop() == 0

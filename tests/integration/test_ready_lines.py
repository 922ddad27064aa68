"""Ready lines of services and clusters."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from skysail_common.process.ready_line import parse_ready_line
from skysail_testing.clusters import running_cluster

PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_frontend_without_routes_listens_and_is_not_ready(log_format: str, workers: str):
    flags = ("--management-endpoint", "127.0.0.1:1", "--workers", workers)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "skysail_frontend",
            *PORTS,
            *flags,
            "--log-format",
            log_format,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        bound = parse_ready_line(line)
        assert bound is not None, line
        assert set(bound) == {"grpc", "http", "metrics"}
        assert httpx.get(f"http://{bound['metrics']}/ready", timeout=10).status_code == 503
        if log_format == "json":
            event = json.loads(line)
            assert (event["event"], event["addresses"]) == ("listening", bound)
        else:
            assert line.startswith("listening frontend grpc=")
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_cluster_with_json_logs_starts(tmp_path: Path):
    with running_cluster(tmp_path, "--log-format", "json", "--log-level", "info") as cluster:
        assert cluster.grpc
        lines = (tmp_path / "logs" / "cluster.log").read_text().splitlines()
        assert all(json.loads(line)["event"] for line in lines)

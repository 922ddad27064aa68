"""Clusters whose services are containers, by `skysail up --all-in-docker` and by compose."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail.clusters.docker.specifications import FRONTEND, MANAGEMENT, PROMETHEUS, STORE
from skysail.clusters.ports import free_port
from skysail_testing.all_in_docker import (
    SERVICES,
    all_in_docker,
    label,
    left,
    remove_images,
    why_not_all_in_docker,
)
from skysail_testing.clusters import RunningCluster
from skysail_testing.commands import skysail_command
from skysail_testing.container_managers import docker_gateways, portable, run_docker
from skysail_testing.processes import eventually
from skysail_testing.traffic import traffic

ROOT = Path(__file__).parents[2]
ROW = np.ones((1, 3))
double = portable(lambda x: x * 2)

# The program tries every route that an unprivileged process has, even past the routing table.
REACH = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor

def is_reached(way):
    (host, _, port), device = way[0].rpartition(":"), way[1]
    with socket.socket() as s:
        s.settimeout(2)
        if device:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        try:
            s.connect((host, int(port)))
        except OSError:
            return False
    return True

ways = [(target, device) for target in sys.argv[1:] for device in (b"", b"eth0")]
with ThreadPoolExecutor(len(ways)) as threads:
    print(*{way[0] for way, is_it in zip(ways, threads.map(is_reached, ways)) if is_it})
"""


def container(cluster: RunningCluster, service: str) -> str:
    marks = ("--filter", label(cluster.data_dir), "--filter", f"label=ai.skysail.service={service}")
    return run_docker("ps", "--all", "--format", "{{.Names}}", *marks).strip()


def replicas(cluster: RunningCluster) -> list[str]:
    marks = ("--filter", label(cluster.data_dir), "--filter", "label=ai.skysail.replica")
    return run_docker("ps", "--format", "{{.Names}}", *marks).split()


def inspect(name: str) -> dict:
    return json.loads(run_docker("inspect", name))[0]


def addresses(name: str) -> list[str]:
    networks = inspect(name)["NetworkSettings"]["Networks"].values()
    return [each["IPAddress"] for each in networks if each["IPAddress"]]


def reached_from(name: str, targets: list[str]) -> set[str]:
    return set(run_docker("exec", name, "python", "-c", REACH, *targets).split())


@pytest.fixture(scope="module")
def docker_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    if reason := why_not_all_in_docker():
        pytest.skip(reason)
    data_dir = tmp_path_factory.mktemp("a")
    with all_in_docker(data_dir, "--prometheus-port", "0") as cluster:
        with cluster.client() as client:
            client.deploy(double, name="m", version="1", example=ROW, num_replicas=2)
            client.register_application("app", default_output=[0, 0, 0], slo_ms=20_000)
            client.link("app", "m")
        yield cluster
    remove_images(label(data_dir))


def test_clients_and_commands_find_the_cluster_by_its_data_directory(docker_cluster, monkeypatch):
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(docker_cluster.data_dir))
    # The client finds management by its directory, and the frontend by management.
    with skysail.Client() as client:
        assert list(client.predict("app", [1, 2, 3]).output) == [2, 4, 6]
        assert client.status().container_manager == "docker"
    assert docker_cluster.grpc in skysail_command("status").stdout
    assert "2" in skysail_command("predict", "app", "[1, 2, 3]").stdout
    assert all(endpoint.startswith("127.0.0.1:") for endpoint in (
        docker_cluster.management, docker_cluster.grpc, docker_cluster.http, docker_cluster.metrics
    ))  # fmt: skip


def test_a_second_cluster_in_one_directory_is_refused(docker_cluster):
    data_dir = str(docker_cluster.data_dir)
    again = skysail_command("up", "--all-in-docker", "--detach", "--data-dir", data_dir)
    assert again.returncode == 1
    assert "in use by another cluster" in again.stderr


def test_a_replica_reaches_only_frontends(docker_cluster):
    management = addresses(container(docker_cluster, MANAGEMENT))
    frontend = addresses(container(docker_cluster, FRONTEND))
    assert len(management) == len(frontend) == 2
    # The store has no network.
    assert addresses(container(docker_cluster, STORE)) == []
    gateways = docker_gateways(*run_docker("network", "ls", "--quiet").split())
    published = docker_cluster.management.rpartition(":")[2]
    forbidden = [
        *(f"{address}:{port}" for address in management for port in (8003, 6379, 22)),
        *(f"{address}:{published}" for address in gateways),
        "management-on-doors:8003",
        f"127.0.0.1:{published}",
    ]
    forbidden += [f"{each}:9090" for each in addresses(container(docker_cluster, PROMETHEUS))]
    assert "9090" in forbidden[-1]
    # A frontend reaches management, which proves that the addresses are right.
    assert reached_from(container(docker_cluster, FRONTEND), forbidden[:6])
    doors = [f"{address}:8001" for address in frontend]
    reached = reached_from(replicas(docker_cluster)[0], [*forbidden, *doors])
    assert not reached & set(forbidden)
    assert len(reached & set(doors)) == 1


def test_services_have_no_capabilities(docker_cluster):
    for service in SERVICES:
        name = container(docker_cluster, service)
        host = inspect(name)["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert host["ReadonlyRootfs"]
        status = Path(f"/proc/{inspect(name)['State']['Pid']}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split()[0] == str(os.getuid() or 65532)
        assert fields["NoNewPrivs"] == "1"
        assert int(fields["CapEff"], 16) == 0


def test_each_service_passes_its_health_check(docker_cluster):
    for service in SERVICES:
        name = container(docker_cluster, service)
        check = inspect(name)["Config"]["Healthcheck"]["Test"]
        assert check[0] == "CMD"
        run_docker("exec", name, *check[1:])


def query_prometheus(prometheus: str, query: str) -> list[dict]:
    """Return the result of an instant query of Prometheus."""
    url = f"http://{prometheus}/api/v1/query?query={urllib.parse.quote(query)}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)["data"]["result"]


# Prometheus discovers and scrapes frontends every 15 s.
_PROMETHEUS_S = 60


def has_measured(prometheus: str, num_replicas: int) -> bool:
    """Return whether Prometheus scrapes one frontend with this number of ready replicas."""
    up = [each["value"][1] for each in query_prometheus(prometheus, 'up{job="skysail-frontend"}')]
    ready = query_prometheus(prometheus, 'skysail_replica_ready{model="m",version="1"} == 1')
    return up == ["1"] and len(ready) == num_replicas


def test_prometheus_scrapes_the_frontend_and_keeps_its_data(docker_cluster):
    prometheus = docker_cluster.prometheus
    eventually(
        lambda: has_measured(prometheus, 2), _PROMETHEUS_S, what="the frontend's metrics are there"
    )
    with urllib.request.urlopen(f"http://{prometheus}/graph", timeout=10) as response:
        page = response.read().decode()
    # Every script must exist, because Debian's package takes some from other packages.
    for script in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        with urllib.request.urlopen(f"http://{prometheus}{script}", timeout=10) as response:
            assert response.read()
    kept = docker_cluster.data_dir / "docker" / PROMETHEUS / "data"
    assert any(kept.iterdir())


def test_a_killed_management_restarts_and_adopts_its_replicas(docker_cluster):
    name = container(docker_cluster, MANAGEMENT)
    before = set(replicas(docker_cluster))
    with docker_cluster.client() as client:
        with traffic(client, "app", [1, 2, 3]) as seen:
            # The test kills the process, because the engine does not restart a container that it killed.
            os.kill(inspect(name)["State"]["Pid"], signal.SIGKILL)
            eventually(lambda: inspect(name)["RestartCount"] == 1, what="management restarts")

            def is_back() -> bool:
                try:
                    return client.describe_version("m", "1").num_ready == 2
                except skysail.SkysailError:
                    return False

            eventually(is_back, what="management knows its replicas")
            seen.wait_for_more(20)
        assert set(seen.outcomes) == {"OK"}, (seen.outcomes, seen.problems)
    assert set(replicas(docker_cluster)) == before


def test_a_stopped_service_exits_with_status_0(docker_cluster):
    for service in (PROMETHEUS, FRONTEND, MANAGEMENT):
        name = container(docker_cluster, service)
        run_docker("stop", "--time", "20", name)
        try:
            assert inspect(name)["State"]["ExitCode"] == 0
        finally:
            run_docker("start", name)
    with docker_cluster.client() as client:

        def answers() -> bool:
            try:
                return list(client.predict("app", [1, 2, 3]).output) == [2, 4, 6]
            except skysail.SkysailError:
                return False

        eventually(answers, what="it answers again")


def test_deployments_return_after_down_and_a_crash_leaves_nothing(tmp_path):
    if reason := why_not_all_in_docker():
        pytest.skip(reason)
    data_dir = tmp_path / "a"
    with all_in_docker(data_dir) as cluster:
        with cluster.client() as client:
            client.deploy(double, name="m", version="1", example=ROW)
    with all_in_docker(data_dir) as cluster:
        with cluster.client() as client:
            eventually(lambda: client.describe_version("m", "1").num_ready == 1, what="it is back")
            assert list(client.predict("m", [1, 2, 3]).output) == [2, 4, 6]
        os.kill(cluster.pid, signal.SIGKILL)
    remove_images(label(data_dir))


def test_a_failed_start_leaves_nothing(tmp_path, monkeypatch):
    if reason := why_not_all_in_docker():
        pytest.skip(reason)
    monkeypatch.setenv("SKYSAIL_FRONTEND_MAX_QUEUE_SIZE", "none")
    failed = skysail_command(
        "up", "--all-in-docker", "--detach", "--data-dir", str(tmp_path),
        *(word for name in ("http", "grpc", "metrics", "management") for word in (f"--{name}-port", "0")),
    )  # fmt: skip
    assert failed.returncode == 1
    assert "SKYSAIL_FRONTEND_MAX_QUEUE_SIZE" in failed.stderr
    assert left(tmp_path) == ""


@pytest.fixture
def compose(monkeypatch) -> Iterator[list[str]]:
    if reason := why_not_all_in_docker():
        pytest.skip(reason)
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    if subprocess.run([*command, "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no docker compose on this machine")
    variables = {
        "COMPOSE_PROJECT_NAME": f"skt{os.getpid()}",
        "SKYSAIL_CLUSTER": f"skt{os.getpid()}",
        "DOCKER_GROUP": str(Path("/var/run/docker.sock").stat().st_gid),
        "COMPOSE_PROFILES": "monitoring",
    }
    for name in ("HTTP", "GRPC", "METRICS", "MANAGEMENT", "PROMETHEUS"):
        variables[f"SKYSAIL_{name}_PORT"] = str(free_port("127.0.0.1"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield [*command, "--file", str(ROOT / "compose.yaml")]
    mark = f"label=ai.skysail.cluster={variables['SKYSAIL_CLUSTER']}"
    assert run_docker("ps", "--all", "--quiet", "--filter", mark) == ""
    assert variables["SKYSAIL_CLUSTER"] not in run_docker("network", "ls")
    assert variables["SKYSAIL_CLUSTER"] not in run_docker("volume", "ls")
    remove_images(mark)


def test_compose_runs_a_cluster(compose):
    def run(*words: str) -> None:
        done = subprocess.run(
            [*compose, *words], capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr

    try:
        run("up", "--detach")
        with skysail.Client(f"127.0.0.1:{os.environ['SKYSAIL_MANAGEMENT_PORT']}") as client:

            def has_a_frontend() -> bool:
                try:
                    return bool(client.status().frontends)
                except skysail.SkysailError:
                    return False

            eventually(has_a_frontend, what="it is ready")
            client.deploy(double, name="m", version="1", example=ROW)
            assert list(client.predict("m", [1, 2, 3]).output) == [2, 4, 6]
            prometheus = f"127.0.0.1:{os.environ['SKYSAIL_PROMETHEUS_PORT']}"
            what = "Prometheus knows the replica"
            eventually(lambda: has_measured(prometheus, 1), _PROMETHEUS_S, what=what)
            run("stop", "frontend", "management")
            run("run", "--rm", "management", "--stop-replicas-only")
    finally:
        run("down", "--volumes")

"""Real processes of management that share a store or lose its data."""

import asyncio
import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis

import skysail
from skysail.clusters.local.store import store_socket
from skysail.errors import StoreLost
from skysail_common.rpc.health_check import STORE, health_status
from skysail_testing import models
from skysail_testing.artifacts import artifacts_in
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.commands import skysail_command
from skysail_testing.processes import Service, eventually
from skysail_testing.store_servers import StoreServer, embedded_command, installed_command

EXAMPLE = np.ones((1, 3))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    make = installed_command if installed_command(tmp_path, tmp_path / "s") else embedded_command
    server = StoreServer(make, tmp_path)
    asyncio.run(server.start())
    yield server
    server.stop()


def management(directory: Path, server: StoreServer, **environment: str) -> Service:
    flags = ["--data-dir", str(directory), "--port", "0", "--log-level", "info"]
    return Service("skysail_management", flags, {"SKYSAIL_REDIS_URL": server.url, **environment})


def raw(server: StoreServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.socket), decode_responses=True)


def deploy_model(endpoint: str) -> int:
    """Deploy a model and return its number of ready replicas."""
    with skysail.Client(endpoint) as client:
        client.deploy(models.double, name="m", version="1", example=EXAMPLE)
        return client.describe_version("m").num_ready


def replicas_of(directory: Path) -> list[int]:
    """Return the process ids of the replicas of a data directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            log = process.environ().get("SKYSAIL_MODEL_SERVER_LOG_FILE", "")
            if log.startswith(str(directory)):
                found.append(process.pid)
    return sorted(found)


def stop_replicas(directory: Path, server: StoreServer) -> None:
    flags = ["--data-dir", str(directory), "--stop-replicas-only"]
    assert Service("skysail_management", flags, {"SKYSAIL_REDIS_URL": server.url}).wait() == 0
    assert replicas_of(directory) == []


def test_a_second_management_is_refused_and_changes_nothing(tmp_path, server):
    first = management(tmp_path / "a", server)
    endpoint = first.wait_ready()["grpc"]
    deploy_model(endpoint)
    before = replicas_of(tmp_path / "a")
    second = management(tmp_path / "b", server)
    assert second.wait() == 1
    for part in (
        "another management owns it",
        f"data directory {tmp_path / 'a'}, process {first.process.pid}",
        "stop that one, or configure another store",
    ):
        assert part in second.errors
    assert "Traceback" not in second.errors
    with skysail.Client(endpoint) as client:
        assert client.describe_version("m").num_ready == 1
        client.scale("m", 2)
    assert set(before) < set(replicas_of(tmp_path / "a"))
    assert first.stop() == 0
    # The first management released its lease, so the next one does not wait.
    third = management(tmp_path / "b", server)
    third.wait_ready()
    assert third.stop() == 0
    stop_replicas(tmp_path / "a", server)
    stop_replicas(tmp_path / "b", server)


def test_the_next_management_of_a_directory_follows_a_crash_at_once(tmp_path, server):
    first = management(tmp_path / "a", server)
    deploy_model(first.wait_ready()["grpc"])
    before = replicas_of(tmp_path / "a")
    first.kill()
    began = time.monotonic()
    second = management(tmp_path / "a", server)
    endpoint = second.wait_ready()["grpc"]
    assert time.monotonic() - began < 8, "the lease alone is 15 s"
    with skysail.Client(endpoint) as client:
        assert client.describe_version("m").num_ready == 1
    assert replicas_of(tmp_path / "a") == before
    assert second.stop() == 0
    stop_replicas(tmp_path / "a", server)


def test_a_frozen_management_is_fenced_and_keeps_its_replicas_running(tmp_path, server):
    first = management(tmp_path / "a", server)
    deploy_model(first.wait_ready()["grpc"])
    before = replicas_of(tmp_path / "a")
    first.process.send_signal(signal.SIGSTOP)
    # The stored renewal moves 20 s back, so the lease has expired.
    raw(server).hincrby("{skysail:default}:meta", "renewed", -20_000)
    second = management(tmp_path / "b", server)
    second.wait_ready()
    first.process.send_signal(signal.SIGCONT)
    assert first.wait() == 1
    assert "the store was taken over by" in first.errors
    assert f"data directory {tmp_path / 'b'}" in first.errors
    assert "Traceback" not in first.errors
    assert replicas_of(tmp_path / "a") == before
    assert len(artifacts_in(tmp_path / "a")) == 1
    # A restart of the fenced management fails with the same reason.
    again = management(tmp_path / "a", server)
    assert again.wait() == 1
    assert "another management owns it" in again.errors
    assert replicas_of(tmp_path / "a") == before
    assert second.stop() == 0
    stop_replicas(tmp_path / "a", server)
    stop_replicas(tmp_path / "b", server)


def test_an_emptied_store_is_refused_until_its_loss_is_accepted(tmp_path, server):
    directory = tmp_path / "a"
    first = management(directory, server)
    deploy_model(first.wait_ready()["grpc"])
    before = replicas_of(directory)
    assert first.stop() == 0
    raw(server).flushall()
    second = management(directory, server)
    assert second.wait() == 1
    assert "it is empty, and was at revision" in second.errors
    assert "1 artifacts and 1 replicas of the cluster exist" in second.errors
    assert replicas_of(directory) == before
    assert len(artifacts_in(directory)) == 1
    name = second.errors.split("ACCEPT_STORE_LOSS=")[1].split()[0]
    wrong = management(directory, server, SKYSAIL_MANAGEMENT_ACCEPT_STORE_LOSS=f"{name}0")
    assert wrong.wait() == 1
    accepted = management(directory, server, SKYSAIL_MANAGEMENT_ACCEPT_STORE_LOSS=name)
    accepted.wait_ready()
    eventually(lambda: not replicas_of(directory))
    eventually(lambda: not artifacts_in(directory), 60)
    assert accepted.stop() == 0


def test_a_wrong_store_password_ends_management_at_once(tmp_path, server):
    raw(server).config_set("requirepass", "right")
    for url in (server.url, f"unix://:wrong@{server.socket}"):
        service = Service(
            "skysail_management",
            ["--data-dir", str(tmp_path / "a"), "--port", "0", "--store-timeout-s", "60"],
            {"SKYSAIL_REDIS_URL": url},
        )
        assert service.wait(20) == 1
        assert "the store refuses the password" in service.errors
        assert "SKYSAIL_REDIS_URL" in service.errors
        assert "Traceback" not in service.errors
        assert "wrong@" not in service.errors


@pytest.mark.parametrize("url", ["localhost:6379", "http://u:secret@h", "redis://h:port"])
def test_an_invalid_url_is_named_without_its_password(tmp_path: Path, url: str):
    flags = ["--data-dir", str(tmp_path / "a"), "--port", "0"]
    service = Service("skysail_management", flags, {"SKYSAIL_REDIS_URL": url})
    assert service.wait(20) == 1
    assert "cannot use the store at" in service.errors
    assert "redis://host:6379/0" in service.errors
    assert "Traceback" not in service.errors
    assert "secret" not in service.errors


class Load:
    """Continuous queries from one thread."""

    def __init__(self, cluster: RunningCluster) -> None:
        self.num_right = 0
        self.errors: list[Exception] = []
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        with self._cluster.client() as client:
            while not self._stop.is_set():
                try:
                    client.predict("m", EXAMPLE[0])
                    self.num_right += 1
                except Exception as error:
                    self.errors.append(error)


def flush(cluster: RunningCluster) -> None:
    redis.Redis(unix_socket_path=str(store_socket(cluster.data_dir))).flushall()


def log_container(cluster: RunningCluster) -> str:
    return (cluster.data_dir / "logs" / "cluster.log").read_text()


def test_a_cluster_without_its_data_keeps_serving(tmp_path: Path):
    with running_cluster(tmp_path) as cluster, cluster.client() as client:
        client.deploy(models.double, name="m", version="1", example=EXAMPLE, num_replicas=2)
        replicas = replicas_of(tmp_path)
        with Load(cluster) as load:
            flush(cluster)
            with pytest.raises(StoreLost, match=r"came back empty.*'skysail store restore'"):
                client.scale("m", 3)
            found = client.status()
            assert found.is_store_reachable
            assert health_status(cluster.management, STORE) == 1
            assert health_status(cluster.management) == 0
            assert "came back empty" in found.store_problem
            assert client.describe_version("m").num_ready == 2
            shown = skysail_command("status", "--endpoint", cluster.management)
            assert "not usable" in shown.stdout
            assert "skysail store restore" in shown.stdout
            # The next management has no mirror and refuses the store, but queries are still answered.
            management_pid = cluster.service_pid("skysail_management")
            os.kill(management_pid, signal.SIGKILL)
            eventually(lambda: "cannot use the store: it is empty" in log_container(cluster), 30)
            assert replicas_of(tmp_path) == replicas
        assert load.errors == []
        assert load.num_right > 20
        assert log_container(cluster).count("store not usable") == 1


def test_store_restore_writes_the_mirror_of_management_back(tmp_path: Path):
    with running_cluster(tmp_path) as cluster, cluster.client() as client:
        client.deploy(models.double, name="m", version="1", example=EXAMPLE)
        replicas = replicas_of(tmp_path)
        refused = skysail_command("store", "restore", "--endpoint", cluster.management)
        assert refused.returncode == 1
        assert "lost no data" in refused.stderr
        with Load(cluster) as load:
            flush(cluster)
            eventually(lambda: client.status().store_problem != "", 30)
            stopped = skysail_command("down", "--data-dir", str(tmp_path))
            assert stopped.returncode == 1
            assert "run 'skysail store restore' first, or pass --yes" in stopped.stderr
            assert client.describe_version("m").num_ready == 1
            restored = skysail_command("store", "restore", "--endpoint", cluster.management)
            assert restored.returncode == 0, restored.stderr
            assert client.status().store_problem == ""
            assert health_status(cluster.management, STORE) == 0
            os.kill(cluster.service_pid("skysail_management"), signal.SIGKILL)
            eventually(lambda: is_ready(cluster), 30)
            client.scale("m", 2)
        assert set(replicas) < set(replicas_of(tmp_path))
        assert load.errors == []


def is_ready(cluster: RunningCluster) -> bool:
    with cluster.client() as client, contextlib.suppress(skysail.errors.Unavailable):
        return client.describe_version("m").num_ready >= 1
    return False


def test_a_cluster_with_another_store_keeps_its_artifacts(tmp_path: Path):
    with running_cluster(tmp_path) as cluster, cluster.client() as client:
        client.deploy(models.double, name="m", version="1", example=EXAMPLE)
    shutil.rmtree(tmp_path / "store")
    started = skysail_command(
        "up", "--detach", "--data-dir", str(tmp_path), "--http-port", "0", "--grpc-port", "0",
        "--metrics-port", "0", "--management-port", "0",
    )  # fmt: skip
    assert started.returncode == 1
    assert "it is empty, and was at revision" in started.stderr
    assert len(artifacts_in(tmp_path)) == 1
    name = started.stderr.split("--accept-store-loss ")[1].split(")")[0]
    with running_cluster(tmp_path, "--accept-store-loss", name) as cluster:
        with cluster.client() as client:
            assert client.status().models == ()

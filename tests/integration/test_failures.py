"""Recovery from failures of replicas, services and the store, without losing queries."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
import psutil
import pytest

import skysail
from skysail import errors
from skysail_protos.v1 import management_pb2, management_pb2_grpc
from skysail_testing import models
from skysail_testing.clusters import (
    RunningCluster,
    running_cluster,
    start_cluster,
)
from skysail_testing.commands import skysail_command
from skysail_testing.metrics_page import scrape
from skysail_testing.processes import Service, eventually
from skysail_testing.traffic import traffic

ROW = np.ones((1, 3))


@pytest.fixture(scope="module")
def prepared_client(cluster: RunningCluster):
    with cluster.client() as client:
        client.deploy(models.double, name="m", version="1", example=ROW, num_replicas=2)
        client.deploy(models.Constant(2.0), name="m", version="2", example=ROW, promote=False)
        client.register_application("app", default_output=[0, 0, 0], slo_ms=20_000)
        client.link("app", "m")
        yield client


def containers(client: skysail.Client, model: str = "m", version: str = "1") -> set[str]:
    found = client.describe_version(model, version)
    return {replica.container_id for replica in found.replicas if replica.state == "READY"}


@pytest.mark.transport
def test_a_killed_replica_is_replaced_and_loses_no_query(cluster, prepared_client):
    with traffic(prepared_client, "app", [1, 2, 3]) as seen:
        for _ in range(2):
            before = containers(prepared_client)
            os.kill(cluster.replica_pid(sorted(before)[0]), signal.SIGKILL)
            eventually(
                lambda before=before: _is_whole_again(prepared_client, before),
                what="the replica is back",
            )
            seen.wait_for_more(20)
    assert set(seen.outcomes) == {"OK"}, seen.problems[:3]
    replicas = prepared_client.describe_version("m", "1").replicas
    assert sum(replica.num_restarts for replica in replicas) >= 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_restarted_management_adopts_its_replicas_and_loses_no_query(
    cluster, prepared_client, number
):
    before = containers(prepared_client)
    pids = {cluster.replica_pid(each) for each in before}
    with traffic(prepared_client, "app", [1, 2, 3]) as seen:
        management = psutil.Process(cluster.service_pid("skysail_management"))
        management.send_signal(number)
        _, alive = psutil.wait_procs([management], timeout=20)
        assert not alive
        seen.wait_for_more(100)
        eventually(lambda: _answers(prepared_client), what="management is back")
        assert containers(prepared_client) == before
        assert {cluster.replica_pid(each) for each in before} == pids
        seen.wait_for_more(50)
    assert set(seen.outcomes) == {"OK"}, seen.problems[:3]


def test_a_replica_that_dies_while_management_is_dead_is_replaced(cluster, prepared_client):
    before = sorted(containers(prepared_client))
    management = cluster.service_pid("skysail_management")
    os.kill(management, signal.SIGKILL)
    os.kill(cluster.replica_pid(before[0]), signal.SIGKILL)
    assert prepared_client.predict("app", [1, 2, 3]).outcome == "OK"
    eventually(lambda: _answers(prepared_client), what="management is back")
    eventually(
        lambda: _is_whole_again(prepared_client, set(before)), what="the replica is replaced"
    )
    assert before[1] in containers(prepared_client)
    assert before[0] not in containers(prepared_client)


def _is_whole_again(client: skysail.Client, before: set[str]) -> bool:
    now = containers(client)
    return len(now) == 2 and now != before


def _answers(client: skysail.Client) -> bool:
    try:
        # Management is usable only after the frontend has reconnected to it.
        status = client.status()
        return status.is_store_reachable and len(status.frontends) == 1
    except errors.Unavailable:
        return False


@pytest.mark.transport
def test_promotion_and_rollback_under_load_lose_no_query(prepared_client):
    with traffic(prepared_client, "app", [1, 2, 3]) as seen:
        prepared_client.promote("m", "2")
        assert prepared_client.predict("app", [1, 2, 3]).version == "2"
        seen.wait_for_more(50)
        prepared_client.rollback("m")
        assert prepared_client.predict("app", [1, 2, 3]).version == "1"
        seen.wait_for_more(50)
    assert set(seen.outcomes) == {"OK"}, seen.problems[:3]
    assert set(seen.versions) == {"1", "2"}


def test_scaling_under_load_loses_no_query(prepared_client):
    with traffic(prepared_client, "app", [1, 2, 3]) as seen:
        for wanted in (1, 3, 2):
            prepared_client.scale("m", wanted)
            assert len(containers(prepared_client)) == wanted
            seen.wait_for_more(30)
    assert set(seen.outcomes) == {"OK"}, seen.problems[:3]


def test_a_version_scaled_to_zero_gives_the_default(prepared_client):
    prepared_client.scale("m", 0)
    prediction = prepared_client.predict("app", [1, 2, 3])
    assert (prediction.outcome, prediction.is_default) == ("DEFAULT_NO_REPLICA", True)
    assert prediction.explanation == "No connected models found for query"
    assert prediction.output.tolist() == [0, 0, 0]
    with pytest.raises(errors.NoReadyReplica):
        prepared_client.predict("m", [1, 2, 3])
    with pytest.raises(errors.NoReadyReplica, match="has no ready replica"):
        prepared_client.promote("m", "1")
    prepared_client.scale("m", 2)
    assert prepared_client.predict("app", [1, 2, 3]).outcome == "OK"


@pytest.mark.transport
def test_a_missed_deadline_gives_the_default_in_time(prepared_client):
    prepared_client.deploy(models.slow, name="slow", version="1", example=ROW)
    prepared_client.register_application("impatient", default_output=-1, slo_ms=50)
    prepared_client.link("impatient", "slow")
    prediction = prepared_client.predict("impatient", [1, 2, 3])
    assert prediction.outcome == "DEFAULT_DEADLINE"
    assert prediction.explanation == (
        "Failed to retrieve a prediction response within the specified latency SLO"
    )
    assert prediction.output == -1
    assert prediction.timings.total_s < 0.2
    with pytest.raises(errors.DeadlineExceeded):
        prepared_client.predict("slow", [1, 2, 3], timeout_s=0.05)
    assert prepared_client.predict("slow", [1, 2, 3]).outcome == "OK"


@pytest.mark.transport
def test_a_query_that_kills_replicas_fails_alone(prepared_client):
    prepared_client.deploy(models.poison, name="poison", version="1", example=ROW, num_replicas=2)
    with traffic(prepared_client, "poison", [1, 2, 3], timeout_s=60) as seen:
        with pytest.raises(errors.ModelFailed, match="replicas died or hung while answering"):
            prepared_client.predict("poison", [6, 66, 666], timeout_s=60)
        seen.wait_for_more(20, timeout_s=60)
    assert set(seen.outcomes) == {"OK"}, seen.problems[:3]
    prepared_client.undeploy("poison", force=True)


def test_a_frontend_without_management_serves_by_its_snapshot(cluster, prepared_client, own_dir):
    snapshot = cluster.data_dir / "routes.snapshot"
    with own_frontend("127.0.0.1:1", "--snapshot-file", str(snapshot)) as bound:
        with skysail.Client(cluster.management, query_endpoint=bound["grpc"]) as client:
            assert client.predict("app", [1, 2, 3]).output.tolist() == [2, 4, 6]


@contextmanager
def own_frontend(management: str, *flags: str) -> Iterator[dict[str, str]]:
    """Run another frontend inside the `with` block; yield its addresses."""
    ports = [part for name in ("grpc", "http", "metrics") for part in (f"--{name}-port", "0")]
    frontend = Service("skysail_frontend", [*ports, "--management-endpoint", management, *flags])
    try:
        yield frontend.wait_ready()
    finally:
        assert frontend.stop() == 0


def test_latency_profiles_survive_frontend_and_management(cluster, prepared_client):
    prepared_client.deploy(models.nap, name="learned", version="1", example=np.zeros((1, 1)))

    def learned_s(endpoint: str) -> float:
        name = "skysail_profile_latency_seconds"
        return scrape(endpoint).sum(name, model="learned", rows="1")

    def stored_s() -> float:
        """Return the stored latency that a new frontend receives."""
        with grpc.insecure_channel(cluster.management) as channel:
            stub = management_pb2_grpc.ManagementServiceStub(channel)
            introduction = management_pb2.WatchRoutingRequest(frontend_id="curious")
            call = stub.WatchRouting(iter([introduction]), timeout=10)
            snapshot = next(call)
            call.cancel()
        (version,) = (each for each in snapshot.versions if each.model == "learned")
        return sum(each.latency_us / 1e6 for each in version.latencies if each.rows == 1)

    assert stored_s() < 0.05
    with own_frontend(cluster.management, "--report-every-s", "0.05") as bound:
        eventually(
            lambda: scrape(bound["metrics"]).sum("skysail_replica_ready", model="learned") == 1
        )
        with skysail.Client(cluster.management, query_endpoint=bound["grpc"]) as client:
            for _ in range(5):
                assert client.predict("learned", [0.15], timeout_s=10).outcome == "OK"
        learned = learned_s(bound["metrics"])
        assert learned > 0.05
        eventually(lambda: stored_s() == pytest.approx(learned, abs=1e-5), what="it is kept")
    os.kill(cluster.service_pid("skysail_management"), signal.SIGKILL)
    eventually(lambda: _answers(prepared_client), what="management is back")
    with own_frontend(cluster.management) as bound:
        eventually(
            lambda: learned_s(bound["metrics"]) == pytest.approx(learned, abs=1e-5),
            what="another frontend begins with it",
        )
    prepared_client.undeploy("learned", force=True)


def test_a_command_waits_for_a_restarting_management(cluster, monkeypatch):
    monkeypatch.delenv("SKYSAIL_ENDPOINT", raising=False)
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(cluster.data_dir))
    before = cluster.service_pid("skysail_management")
    os.kill(before, signal.SIGKILL)
    done = skysail_command("status")
    assert done.returncode == 0, done.stderr
    assert cluster.service_pid("skysail_management") != before


def test_a_frontend_notices_a_frozen_management(cluster, prepared_client):
    management = cluster.service_pid("skysail_management")
    ports = [part for name in ("grpc", "http", "metrics") for part in (f"--{name}-port", "0")]
    flags = [*ports, "--management-endpoint", cluster.management, "--log-level", "info"]
    frontend = Service("skysail_frontend", flags)
    try:
        frontend.wait_ready()
        eventually(lambda: "routes applied" in frontend.errors)
        begin = time.monotonic()
        os.kill(management, signal.SIGSTOP)
        eventually(lambda: "management unavailable" in frontend.errors, what="it is noticed")
        assert time.monotonic() - begin < 15
        os.kill(management, signal.SIGCONT)
        eventually(lambda: frontend.errors.count("routes applied") > 1, what="it follows again")
    finally:
        os.kill(management, signal.SIGCONT)
        assert frontend.stop() == 0


def test_frontends_serve_while_the_store_is_down(cluster, prepared_client):
    store = cluster.store_pid()
    os.kill(store, signal.SIGSTOP)
    try:
        assert prepared_client.predict("app", [1, 2, 3]).outcome == "OK"
        with pytest.raises(errors.StoreUnavailable):
            prepared_client.register_application("while-away")
    finally:
        os.kill(store, signal.SIGCONT)
    eventually(lambda: _registers(prepared_client), what="the store is back")
    os.kill(store, signal.SIGKILL)
    assert prepared_client.predict("app", [1, 2, 3]).outcome == "OK"
    eventually(lambda: _registers(prepared_client), what="the store was started again")
    assert {each.name for each in prepared_client.applications()} >= {"app", "while-away"}


def _registers(client: skysail.Client) -> bool:
    try:
        client.register_application("while-away")
    except (errors.StoreUnavailable, errors.Conflict):
        return False
    return True


@pytest.mark.transport
def test_a_killed_frontend_restarts_on_its_ports(cluster, prepared_client):
    os.kill(cluster.service_pid("skysail_frontend"), signal.SIGKILL)
    assert prepared_client.predict("app", [1, 2, 3], timeout_s=20).outcome == "OK"


@pytest.mark.transport
def test_queries_of_a_frozen_replica_go_to_another(cluster, prepared_client):
    (victim, _) = sorted(containers(prepared_client))
    pid = cluster.replica_pid(victim)
    os.kill(pid, signal.SIGSTOP)
    try:
        predictions = [
            prepared_client.predict("app", [1, 2, 3], timeout_s=3).outcome for _ in range(10)
        ]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert predictions.count("OK") >= 8, predictions


def test_deployments_return_after_down_and_after_a_kill(own_dir):
    with running_cluster(own_dir) as cluster, cluster.client() as client:
        client.deploy(models.double, name="m", version="1.0", example=ROW)
        client.register_application("app", default_output=-1, slo_ms=9000)
        client.link("app", "m")
    done = skysail_command("down", "--data-dir", str(own_dir))
    assert done.returncode == 1
    assert done.stderr == f"skysail: no cluster runs in {own_dir}\n"

    cluster = start_cluster(own_dir)
    with cluster.client() as client:
        check_is_back(client)
        (replica,) = client.describe_version("m").replicas
    family = [
        *psutil.Process(cluster.pid).children(recursive=True),
        psutil.Process(cluster.replica_pid(replica.container_id)),
    ]
    store = psutil.Process(cluster.store_pid())
    family.remove(store)
    os.kill(cluster.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, alive
    done = skysail_command("down", "--data-dir", str(own_dir))
    assert done.returncode == 0, done.stderr
    _, alive = psutil.wait_procs([store], timeout=10)
    assert not alive, alive

    with running_cluster(own_dir) as again, again.client() as client:
        check_is_back(client)


def check_is_back(client: skysail.Client) -> None:
    eventually(lambda: client.describe_version("m").num_ready == 1)
    assert client.predict("app", [1, 2, 3]).output.tolist() == [2, 4, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cluster_that_stops_with_its_management_leaves_no_process(own_dir, number):
    cluster = start_cluster(own_dir)
    with cluster.client() as client:
        client.deploy(models.double, name="m", version="1", example=ROW)
        (replica,) = client.describe_version("m").replicas
    supervisor = psutil.Process(cluster.pid)
    family = [
        supervisor,
        *supervisor.children(recursive=True),
        psutil.Process(cluster.replica_pid(replica.container_id)),
    ]
    os.kill(cluster.service_pid("skysail_management"), signal.SIGTERM)
    supervisor.send_signal(number)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, alive


def test_a_corrupt_artifact_is_reported_and_repaired_by_another_deploy(cluster, prepared_client):
    prepared_client.deploy(models.Constant(3.0), name="rotten", version="1", example=ROW)
    artifact = (
        cluster.data_dir / "artifacts" / prepared_client.describe_version("rotten").artifact_sha256
    )
    artifact.write_bytes(artifact.read_bytes()[:-10] + b"corrupted!")
    (replica,) = prepared_client.describe_version("rotten").replicas
    os.kill(cluster.replica_pid(replica.container_id), signal.SIGKILL)
    eventually(
        lambda: any(
            "is corrupt on disk; deploy the version again" in each.line
            for each in prepared_client.logs("rotten")
        ),
        what="the replica says why it does not come back",
    )
    # The next deploy uploads the artifact again.
    prepared_client.deploy(models.Constant(3.0), name="rotten", version="1", example=ROW)
    eventually(lambda: prepared_client.describe_version("rotten").num_ready == 1)
    assert prepared_client.predict("rotten", [1, 2, 3]).outcome == "OK"


def test_logs_of_a_replica_are_read_and_followed(prepared_client):
    prepared_client.deploy(models.talks, name="talks", version="1", example=ROW)
    prepared_client.predict("talks", [4, 5, 6])
    lines = [each.line for each in prepared_client.logs("talks")]
    assert "seen [[1.0, 1.0, 1.0]]" in lines
    assert "seen [[4.0, 5.0, 6.0]]" in lines
    follower = prepared_client.logs("talks", follow=True, tail_lines=1)
    next(follower)
    prepared_client.predict("talks", [7, 8, 9])
    assert next(follower).line == "seen [[7.0, 8.0, 9.0]]"
    with pytest.raises(errors.ReplicaNotFound, match="has no replica 5"):
        list(prepared_client.logs("talks", replica=5))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["skysail_frontend", "skysail_management"])
def test_a_hung_service_is_killed_and_replaced(cluster, prepared_client, module: str):
    hung = psutil.Process(cluster.service_pid(module))
    hung.suspend()
    _, alive = psutil.wait_procs([hung], timeout=60)
    assert not alive
    eventually(lambda: _answers(prepared_client), what="the frontend follows management")
    assert prepared_client.predict("app", [1, 2, 3]).outcome == "OK"
    log = (cluster.data_dir / "logs" / "cluster.log").read_text()
    assert f"service hangs and is killed service_name={module.partition('_')[2]}" in log

"""Deploys on Kubernetes, and the reasons of failed deploys and replicas."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import skysail
from skysail_testing.container_managers import make_wheel, portable
from skysail_testing.kubernetes_clusters import kubernetes_cluster
from skysail_testing.kubernetes_traffic import (
    ROW,
    assert_all_answered,
    double,
    knows_its_replicas,
    ready,
    soon,
    steady,
    triple,
)
from skysail_testing.skysail_on_kubernetes import OnKubernetes

pytestmark = pytest.mark.kubernetes


def reasons(client: skysail.Client, model: str, version: str) -> list[str]:
    """Return the reasons that `status` shows for the replicas of a version."""
    versions = [
        each
        for found in client.status().models
        for each in found.versions
        if (each.model, each.version) == (model, version)
    ]
    return [each.reason for found in versions for each in found.replicas]


@contextmanager
def image_of_replicas(cluster: OnKubernetes, client: skysail.Client, image: str) -> Iterator[None]:
    """Configure another image for replicas inside the `with` block."""
    name = "SKYSAIL_MANAGEMENT_KUBERNETES_IMAGE"
    settings = ("configmap", "skysail-settings")
    before = cluster.json("get", *settings)["data"][name]
    try:
        for value in (image, before):
            pods = ready(client)
            change = json.dumps({"data": {name: value}})
            cluster.kubectl("patch", *settings, "--type", "merge", "--patch", change)
            (leader,) = cluster.leaders()
            cluster.kubectl("rollout", "restart", "deployment/skysail-management")
            soon(lambda leader=leader: cluster.leaders() - {leader}, "another leads")
            soon(lambda pods=pods: knows_its_replicas(client, pods), "it knows its replicas")
            if value == image:
                yield
    finally:
        change = json.dumps({"data": {name: before}})
        cluster.kubectl("patch", *settings, "--type", "merge", "--patch", change)


def test_versions_and_replica_counts_change_under_load(cluster, client):
    with steady(client) as seen:
        client.deploy(triple, name="m", version="2", example=ROW)
        seen.wait_for_more(20)
        assert client.rollback("m") == "1"
        seen.wait_for_more(20)
        client.promote("m", "2")
        client.rollback("m")
        client.undeploy("m", "2", force=True)
        client.scale("m", 3, version="1")
        soon(lambda: len(ready(client)) == 3, "three replicas")
        client.scale("m", 1, version="1")
        soon(lambda: len(cluster.pods("model-server")) == 1, "one replica")
        seen.wait_for_more(20)
        client.scale("m", 2, version="1")
        soon(lambda: len(ready(client)) == 2, "two replicas")
    assert_all_answered(seen)
    assert {"1", "2"} <= set(seen.versions)


def test_a_failed_deploy_shows_the_log_of_its_pod(client, monkeypatch):
    def imports_a_missing_module(x):
        import os

        if "SKY_TEST_HERE" not in os.environ:
            import no_such_module  # noqa: F401
        return x

    monkeypatch.setenv("SKY_TEST_HERE", "1")
    with pytest.raises(skysail.errors.DeployFailed) as caught:
        client.deploy(portable(imports_a_missing_module), name="m", version="bad", example=ROW)
    assert "No module named 'no_such_module'" in caught.value.log_tail
    assert client.predict("app", [1, 2, 3]).version == "1"


def test_a_version_too_large_for_every_node_fails_within_seconds(client):
    begin = time.monotonic()
    shown: dict[str, float] = {}

    def note(event: skysail.DeployEvent) -> None:
        shown.setdefault(event.message, time.monotonic() - begin)

    with pytest.raises(skysail.errors.DeployFailed, match="no node can hold it"):
        client.deploy(
            double,
            name="m",
            version="huge",
            example=ROW,
            cpus=1000,
            start_timeout_s=4,
            on_event=note,
        )
    (seconds,) = [at for text, at in shown.items() if "Insufficient cpu" in text][:1]
    assert seconds < 10, shown
    assert client.predict("app", [1, 2, 3]).version == "1"


def test_a_missing_image_fails_the_deploy_while_the_old_version_serves(cluster, client):
    shown: dict[str, float] = {}
    with steady(client) as seen:
        with image_of_replicas(cluster, client, "localhost:1/no-such-image:1"):
            begin = time.monotonic()
            with pytest.raises(skysail.errors.DeployFailed, match="cannot be pulled"):
                client.deploy(
                    double, name="m", version="imageless", example=ROW, start_timeout_s=4,
                    on_event=lambda event: shown.setdefault(event.message, time.monotonic() - begin),
                )  # fmt: skip
            seconds = min(at for text, at in shown.items() if "connection refused" in text)
            assert seconds < 10, shown
    assert_all_answered(seen)
    assert client.predict("app", [1, 2, 3]).version == "1"


def test_a_version_keeps_its_image_when_the_configured_image_has_another_python(cluster, client):
    noted = ("configmap", "skysail-default-packages-images")
    pythons = json.loads(cluster.json("get", *noted)["data"]["pythons"])
    # The record replaces a probe of the image, so no node needs to have it.
    other = "localhost:1/model-server-of-another-python:1"
    data = {"pythons": json.dumps({**pythons, other: "3.7.16"})}
    change = json.dumps({"data": data})
    cluster.kubectl("patch", *noted, "--type", "merge", "--patch", change)
    with image_of_replicas(cluster, client, other):
        gone = min(ready(client))
        cluster.kubectl("delete", "pod", gone, "--wait=false")
        soon(lambda: len(ready(client) - {gone}) == 2, "another in its place")
        client.scale("m", 3)
        soon(lambda: len(ready(client)) == 3, "one more")
        images = {pod["spec"]["containers"][0]["image"] for pod in cluster.pods("model-server")}
        assert images == set(pythons)
        client.scale("m", 2)
        soon(lambda: len(ready(client)) == 2, "two replicas")
        with pytest.raises(skysail.errors.DeployFailed, match=r"has Python 3\.7"):
            client.deploy(portable(lambda x: x), name="new", version="1", example=ROW)


def test_a_package_is_installed_once_for_all_versions(cluster, client, tmp_path):
    def answer(x):
        import skytestwheel

        return [[each + skytestwheel.ANSWER for each in row] for row in x]

    wheel = make_wheel(tmp_path, "skytestwheel", "ANSWER = 40\n")
    package = f"skytestwheel @ {kubernetes_cluster().serve(tmp_path)}/{wheel.name}"
    # The input type is given, because the example could not run without the package.
    options = {"name": "p", "input_type": "doubles", "pkgs_to_install": [package]}
    lines: list[str] = []

    def note(event: skysail.DeployEvent) -> None:
        lines.append(event.message)

    client.deploy(portable(answer), version="1", on_event=note, **options)
    assert any("Successfully installed skytestwheel-1.0" in line for line in lines)
    assert list(client.predict("p", [1.0, 2.0]).output) == [41, 42]
    # The second version needs neither pip nor the wheel.
    wheel.unlink()
    lines.clear()
    client.deploy(portable(answer), version="2", on_event=note, **options)
    assert any("is ready" in line and "environment" in line for line in lines)
    assert client.predict("p", [1.0, 2.0]).version == "2"
    assert cluster.pods("installer") == []
    client.undeploy("p", "1", force=True)
    client.undeploy("p", "2", force=True)


def test_a_replica_that_runs_out_of_memory_reports_its_limit_while_the_old_version_serves(client):
    def hoards(x):
        import mmap

        for row in x:
            # Shared memory, because a limit of the process would stop other memory before the container's.
            with mmap.mmap(-1, int(row[0] + 1) * 1024 * 1024) as memory:
                for _ in range(int(row[0])):
                    memory.write(b"x" * 1024 * 1024)
        return x

    client.deploy(
        portable(hoards), name="m", version="hoards", example=ROW, promote=False, memory_mib=200
    )
    with steady(client) as seen:
        with pytest.raises(skysail.SkysailError):
            client.predict("m", [400.0, 0.0, 0.0], version="hoards", timeout_s=1)
        (reason,) = soon(
            lambda: [each for each in reasons(client, "m", "hoards") if "out of memory" in each],
            "status tells",
        )
        # The reason is read before a new replica replaces the failed one.
        assert reason.endswith("ran out of memory: its limit is 200 MiB")
        soon(lambda: len(ready(client, "m", "hoards")) == 1, "it is started again")
    assert_all_answered(seen)
    client.undeploy("m", "hoards", force=True)


def test_a_crash_loop_is_reported_while_the_old_version_serves(client):
    def ends_soon(x):
        import os
        import threading

        if os.environ.get("SKYSAIL_REPLICA_INDEX"):
            print("the end is near", flush=True)
            threading.Timer(1.5, os._exit, [7]).start()
        return x

    client.deploy(portable(ends_soon), name="m", version="ends", example=ROW, promote=False)
    with steady(client) as seen:

        def crashed() -> list[skysail.descriptions.Replica]:
            found = client.describe_version("m", "ends").replicas
            return [each for each in found if each.num_restarts >= 2 and each.reason]

        replicas = soon(crashed, "status tells")
    assert_all_answered(seen)
    assert "status 7" in replicas[0].reason
    client.undeploy("m", "ends", force=True)

"""Reports and timeouts of `skysail up` for pods that do not become ready."""

import itertools
from collections.abc import Mapping

import pytest

from skysail.clusters.kubernetes.readiness import Readiness
from skysail_common.kubernetes.errors import NotAllowed
from skysail_common.kubernetes.kinds import Kind, Object
from skysail_common.kubernetes.labels import labels
from skysail_common.process.child_process import StartFailed
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_services import service_pod, thing
from skysail_testing.virtual_time import now, virtual_time

MISSING = 'MountVolume.SetUp failed for volume "tls" : secret "tls-blue" not found'


def waiting(component: str, reason: str, message: str = "") -> Object:
    pod = service_pod(component, is_ready=False)
    state = {"waiting": {"reason": reason, "message": message}}
    pod["status"]["containerStatuses"] = [
        {"name": component, "image": f"registry.example/{component}:1", "state": state}
    ]
    return pod


def warning(pod: Object, reason: str, message: str, kind: str = "Warning") -> Object:
    return thing(
        "Event", f"{reason}-{len(message)}", type=kind, reason=reason, message=message,
        involvedObject={"uid": pod["metadata"]["uid"]}, lastTimestamp="2026-11-20T10:00:00Z",
    )  # fmt: skip


async def failure(api: FakeKubernetesApi, lines: list[str]) -> tuple[float, str]:
    """Wait for a cluster that fails; return the time and the error message."""
    begin = now()
    with pytest.raises(StartFailed) as caught:
        await Readiness(api, labels("blue"), lines.append, now).wait()
    return now() - begin, caught.value.message


@virtual_time
async def test_the_pod_that_blocks_the_others_is_named_once_and_first(api: FakeKubernetesApi):
    api.add(service_pod("management", is_ready=False))
    # The Job of this pod creates the volumes of all services.
    job = waiting("directories", "ErrImagePull", "connection refused")
    api.add(job)
    states = itertools.cycle([job, waiting("directories", "ImagePullBackOff")])
    lines: list[str] = []
    listed = api.list

    async def alternates(kind: Kind, selected: Mapping[str, str]) -> list[Object]:
        found = await listed(kind, selected)
        return [
            next(states) if each["metadata"]["name"] == "directories-0" else each for each in found
        ]

    api.list = alternates  # type: ignore[method-assign]
    waited_s, message = await failure(api, lines)
    assert 60 <= waited_s < 62
    image = "image registry.example/directories:1 cannot be pulled"
    assert sorted(lines) == [
        f"directories-0: {image}",
        f"directories-0: {image}: connection refused",
    ]
    first, second, *_ = message.splitlines()
    assert first == f"the cluster is not ready after {waited_s:.0f} s"
    assert second.startswith(f"  directories-0: {image}")


@virtual_time
async def test_events_reveal_a_missing_secret(api: FakeKubernetesApi):
    api.add(service_pod("management", is_leader=True))
    pod = api.add(waiting("frontend", "ContainerCreating"))
    api.add(warning(pod, "FailedMount", MISSING))
    api.add(warning(pod, "Unhealthy", "Readiness probe failed"))
    api.add(warning(pod, "FailedScheduling", "long ago", kind="Normal"))
    lines: list[str] = []
    waited_s, message = await failure(api, lines)
    assert 60 <= waited_s < 62
    assert lines == ["management-0: ready", f"frontend-0: FailedMount: {MISSING}"]
    assert f"frontend-0: FailedMount: {MISSING}" in message


@virtual_time
async def test_a_pod_that_may_recover_gets_the_whole_timeout(api: FakeKubernetesApi):
    pod = service_pod("management", is_ready=False)
    pod["status"]["phase"] = "Pending"
    api.add(pod)
    api.errors["list", "Event"] = [NotAllowed("'jo' may not list events")]
    lines: list[str] = []
    waited_s, message = await failure(api, lines)
    assert 180 <= waited_s < 182
    assert lines == []
    assert message.endswith("management-0: not ready, pending")


@virtual_time
async def test_up_does_not_wait_for_replicas_of_models(api: FakeKubernetesApi):
    api.add(service_pod("management", is_leader=True))
    api.add(waiting("model-server", "ErrImagePull"))
    lines: list[str] = []
    await Readiness(api, labels("blue"), lines.append, now).wait()
    assert lines == ["management-0: ready"]


@virtual_time
async def test_the_error_text_of_the_kubelet_is_no_log(api: FakeKubernetesApi):
    api.add(service_pod("frontend", is_ready=False))
    store = waiting("store", "CrashLoopBackOff", "back-off 40s restarting failed container")
    api.add(store)
    gone = [b"unable to retrieve container logs for containerd://07cd"]
    api.log_lines["store-0", "store", True] = gone
    api.log_lines["store-0", "store", False] = [b"cannot write /data"]
    _, message = await failure(api, [])
    assert message.splitlines()[1:] == [
        "  store-0: container store cannot be started: back-off 40s restarting failed container",
        "      cannot write /data",
        "  frontend-0: not ready",
    ]

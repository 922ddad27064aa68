from datetime import datetime, timedelta, timezone

import pytest

from skysail_common.identifiers import ReplicaId
from skysail_common.kubernetes.kinds import Object
from skysail_common.kubernetes.pod_problems import problem_of, waiting_reason
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.containers.kubernetes.pod_states import (
    PodState,
    group_name,
    is_attached,
    is_claimed,
    is_deleted,
    is_free,
    is_released,
    read_pod,
)
from skysail_testing.kubernetes_pods import SHA256, VERSION, conditions, container, ended, pod_json

IMAGE = "registry.example/skysail-model-server:0.1.0"
PULL_ERROR = (
    'failed to pull and unpack image "registry.example/skysail-model-server:0.1.0": '
    "pull access denied, repository does not exist or may require authorization"
)


def waiting(reason: str, message: str = "", **options: Object) -> Object:
    content = {"reason": reason, **({"message": message} if message else {})}
    return container("model-server", waiting=content, **options)


def with_server(*servers: Object, **status: object) -> Object:
    """A pod whose model server is in such a state, and not ready."""
    return pod_json(
        **{"containerStatuses": list(servers), "conditions": conditions(False), **status}
    )


def deleted(pod: Object) -> Object:
    pod["metadata"]["deletionTimestamp"] = "2026-11-20T10:05:00Z"
    pod["metadata"]["deletionGracePeriodSeconds"] = 30
    return pod


def state_of(pod: Object) -> Container:
    return read_pod(pod).container


def starting(reason: str = "") -> tuple[ReplicaState, str]:
    return ReplicaState.STARTING, reason


def seen(pod: Object) -> tuple[ReplicaState, str]:
    found = state_of(pod)
    assert not found.is_permanent
    return found.state, found.reason


def failed(pod: Object) -> str:
    found = state_of(pod)
    assert found.state is ReplicaState.FAILED
    assert not found.is_permanent
    return found.reason


def test_ready_replica():
    pod = pod_json(3)
    assert read_pod(pod) == PodState(
        Container(
            pod["metadata"]["name"],
            ReplicaId(VERSION, 3),
            ReplicaState.READY,
            "10.42.0.7:8005",
            started_at=datetime(2026, 11, 20, 10, 0, 1, 250000, timezone(timedelta())),
            labels={
                "cluster": "c",
                "model": "m",
                "version": "1",
                "replica": "3",
                "artifact": SHA256,
            },
        )
    )


def test_new_pod():
    pod = pod_json()
    pod["status"] = {"phase": "Pending"}
    assert seen(pod) == starting()
    assert state_of(pod).endpoint == ""
    del pod["status"]
    assert seen(pod) == starting()


def test_pending_pod():
    creating = {"reason": "ContainerCreating"}
    pod = pod_json(
        phase="Pending",
        conditions=conditions(False),
        initContainerStatuses=[container("artifact", waiting=creating)],
        containerStatuses=[waiting("PodInitializing")],
    )
    assert seen(pod) == starting()
    fetching = [container("artifact", running={"startedAt": "2026-11-20T10:00:02Z"})]
    pod["status"]["initContainerStatuses"] = fetching
    assert seen(pod) == starting()


def test_loading_replica_has_an_endpoint():
    pod = with_server(container("model-server", running={"startedAt": "2026-11-20T10:00:04Z"}))
    assert seen(pod) == starting()
    assert state_of(pod).endpoint == "10.42.0.7:8005"


def test_unschedulable_pod():
    message = "0/1 nodes are available: 1 Insufficient cpu."
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    pod = pod_json()
    pod["status"] = {"phase": "Pending", "conditions": [{**unschedulable, "message": message}]}
    assert seen(pod) == starting(f"no node can hold it: {message}")


def test_unpullable_image():
    assert seen(with_server(waiting("ErrImagePull", PULL_ERROR))) == starting(
        f"image {IMAGE} cannot be pulled: {PULL_ERROR}"
    )
    back_off = waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"')
    assert seen(with_server(back_off)) == starting(f"image {IMAGE} cannot be pulled")
    assert seen(with_server(waiting("InvalidImageName"))) == starting(
        f"image {IMAGE} cannot be pulled"
    )


def test_first_container_without_an_image_is_reported():
    first = container("artifact", waiting={"reason": "ErrImagePull", "message": "no such host"})
    pod = with_server(waiting("PodInitializing"), initContainerStatuses=[first])
    assert seen(pod) == starting(f"image {IMAGE} cannot be pulled: no such host")


@pytest.mark.parametrize(
    ("reason", "message", "told"),
    [
        ("CreateContainerConfigError", 'secret "s" not found', 'secret "s" not found'),
        ("CreateContainerError", "context deadline exceeded", "context deadline exceeded"),
        ("ErrImageNeverPull", "", "ErrImageNeverPull"),
    ],
)
def test_container_that_cannot_be_created(reason: str, message: str, told: str):
    assert seen(with_server(waiting(reason, message))) == starting(
        f"container model-server cannot be started: {told}"
    )


def test_crashed_replica_has_failed():
    again = container("model-server", running={"startedAt": "2026-11-20T10:00:14Z"}, last=ended(1))
    found = read_pod(with_server(again))
    assert found.container.state is ReplicaState.FAILED
    assert found.container.reason == "exited with status 1"
    assert (found.log_container, found.is_log_previous) == ("model-server", True)


def test_crash_loop():
    message = "back-off 10s restarting failed container=model-server"
    found = read_pod(with_server(waiting("CrashLoopBackOff", message, last=ended(3))))
    assert found.container.reason == "exited with status 3"
    assert found.is_log_previous


def test_replica_that_exited_has_failed():
    found = read_pod(with_server(container("model-server", terminated=ended(0, "Completed"))))
    assert found.container.state is ReplicaState.FAILED
    assert found.container.reason == "exited with status 0"
    assert not found.is_log_previous


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (69, "the model server cannot reach management"),
        (137, "killed by SIGKILL; the machine may have run out of memory"),
        (139, "killed by SIGSEGV"),
        (143, "killed by SIGTERM"),
        (255, "killed by 127"),
        (2, "exited with status 2"),
        (67, "stuck: its function did not return; its log shows where it hung"),
    ],
)
def test_exit_reason_is_reported(status: int, reason: str):
    assert failed(with_server(container("model-server", terminated=ended(status)))) == reason


def test_load_failure_is_permanent():
    found = state_of(with_server(container("model-server", terminated=ended(65))))
    assert found.is_permanent
    assert found.reason == "cannot load the model, or the model failed on its warm-up query"


def test_replica_out_of_memory():
    pod = with_server(waiting("CrashLoopBackOff", last=ended(137, "OOMKilled")))
    assert failed(pod) == "ran out of memory: its limit is 300 MiB"
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    limits["memory"] = "2Gi"
    assert failed(pod) == "ran out of memory: its limit is 2Gi"
    pod["spec"]["containers"][0]["resources"] = {}
    assert failed(pod) == "ran out of memory: its limit is that of its node"


def test_container_with_a_missing_command():
    message = 'exec: "python": executable file not found in $PATH: unknown'
    end = ended(128, "StartError", message=message)
    assert failed(with_server(container("model-server", terminated=end))) == (
        f"cannot start its container: {message}"
    )


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (1, "cannot fetch its artifact"),
        (65, "cannot fetch its artifact"),
        (69, "the model server cannot reach management"),
    ],
)
def test_artifact_fetch_failure(status: int, reason: str):
    first = container("artifact", waiting={"reason": "CrashLoopBackOff"}, last=ended(status))
    pod = with_server(waiting("PodInitializing"), initContainerStatuses=[first])
    assert failed(pod) == reason
    found = read_pod(pod)
    assert (found.log_container, found.is_log_previous) == ("artifact", True)


def test_init_container_has_its_own_limit():
    first = container("artifact", terminated=ended(137, "OOMKilled"))
    pod = with_server(waiting("PodInitializing"), initContainerStatuses=[first])
    assert failed(pod) == "ran out of memory: its limit is 256 MiB"


def test_eviction_reason_precedes_the_exit_reason():
    message = 'Usage of EmptyDir volume "tmp" exceeds the limit "512Mi".'
    pod = with_server(
        container("model-server", terminated=ended(137)),
        phase="Failed",
        reason="Evicted",
        message=message,
    )
    assert failed(pod) == message
    del pod["status"]["message"]
    assert failed(pod) == "Evicted"
    del pod["status"]["containerStatuses"]
    assert failed(pod) == "Evicted"


def test_failed_pod_without_a_reason():
    assert failed(with_server(phase="Failed")) == "its pod failed"
    end = container("model-server", terminated=ended(1))
    assert failed(with_server(end, phase="Failed")) == "exited with status 1"


def test_deleted_pod_takes_no_batches():
    pod = deleted(pod_json())
    assert failed(pod) == "its pod was deleted"
    # An exit after the deletion is no failure of its own.
    end = container("model-server", terminated=ended(0, "Completed"))
    assert failed(deleted(with_server(end))) == "its pod was deleted"


@pytest.mark.parametrize(
    ("message", "told"),
    [("Eviction API: evicting", "Eviction API: evicting"), ("", "EvictionByEvictionAPI")],
)
def test_removal_reason_is_reported(message: str, told: str):
    target = {"status": "True", "reason": "EvictionByEvictionAPI", "message": message}
    pod = deleted(pod_json(conditions=conditions(DisruptionTarget=target)))
    assert failed(pod) == f"its pod is removed: {told}"
    # A pod that is about to be removed still serves.
    del pod["metadata"]["deletionTimestamp"]
    assert state_of(pod).state is ReplicaState.READY


def test_labels_of_a_pod():
    gated, ready = pod_json(None), pod_json(0)
    assert (is_free(gated), is_claimed(gated)) == (True, False)
    assert (is_free(ready), is_claimed(ready)) == (False, True)
    assert not is_free(deleted(pod_json(None)))
    assert not is_deleted(ready)
    gated["spec"]["schedulingGates"] = [{"name": "somebody.else/gate"}]
    assert not is_free(gated)
    assert (
        group_name(ready)
        == ready["spec"]["initContainers"][0]["env"][-1]["valueFrom"]["secretKeyRef"]["name"]
    )


def test_pod_counts_until_its_detachment():
    pod = pod_json()
    assert is_attached(pod)
    assert not is_released(pod)
    pod["metadata"]["labels"]["skysail.ai/attached"] = "false"
    assert is_attached(pod)
    assert is_released(pod)
    del pod["metadata"]["ownerReferences"]
    assert not is_attached(pod)


@pytest.mark.parametrize("where", ["labels", "annotations"])
def test_pod_without_annotations_is_foreign(where: str):
    pod = pod_json()
    pod["metadata"][where] = {"skysail.ai/replica": "0"}
    with pytest.raises(KeyError):
        read_pod(pod)


def test_waiting_reasons_of_service_pods():
    assert problem_of(pod_json()) == ""
    assert waiting_reason({"metadata": {}}) == problem_of({"metadata": {}}) == ""
    crashed = with_server(waiting("CrashLoopBackOff", "back-off 10s", last=ended(2)))
    assert problem_of(crashed) == "container model-server ended with status 2"
    assert problem_of(with_server(waiting("ErrImagePull", "no"))).endswith("cannot be pulled: no")
    again = container("model-server", running={}, last=ended(0))
    assert problem_of(with_server(again)) == ""

"""The state of a replica, read from the JSON of its pod, as pure functions."""

from dataclasses import dataclass, replace
from datetime import datetime

from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.kubernetes.kinds import Object
from skysail_common.kubernetes.labels import CLUSTER
from skysail_common.kubernetes.pod_problems import condition_of, container_statuses, waiting_reason
from skysail_common.process.sockets import join_host_port
from skysail_common.states import ExitCode, ReplicaState
from skysail_management.containers.base import Container
from skysail_management.containers.exit_reasons import exit_reason
from skysail_management.containers.kubernetes.manifests import (
    ARTIFACT,
    ATTACHED,
    GATE,
    GROUP,
    MODEL,
    PORT,
    SERVER_CONTAINER,
    STARTED_AT,
    VERSION,
)

_SIGNALLED = 128
"""An exit status above this value means that a signal ended the process."""


@dataclass(frozen=True)
class PodState:
    """The state of a replica that its pod shows."""

    container: Container
    log_container: str = SERVER_CONTAINER
    """Container of the pod whose log explains the state."""
    is_log_previous: bool = False
    """True if that container was restarted, so that its previous log counts."""


def is_claimed(pod: Object) -> bool:
    """Return whether a pod has an index."""
    return GATE in pod["metadata"]["labels"]


def is_free(pod: Object) -> bool:
    """Return whether a pod waits at the gate for an index."""
    gates = pod["spec"].get("schedulingGates", ())
    return any(gate["name"] == GATE for gate in gates) and not is_deleted(pod)


def is_attached(pod: Object) -> bool:
    """Return whether its Kubernetes Deployment counts a pod."""
    owners = pod["metadata"].get("ownerReferences", ())
    return pod["metadata"]["labels"].get(ATTACHED) == "true" or bool(owners)


def is_released(pod: Object) -> bool:
    """Return whether a pod was detached from its Kubernetes Deployment."""
    return bool(pod["metadata"]["labels"].get(ATTACHED) != "true")


def is_deleted(pod: Object) -> bool:
    """Return whether a pod is deleted and about to end."""
    return "deletionTimestamp" in pod["metadata"]


def group_name(pod: Object) -> str:
    """Return the name of the Kubernetes Deployment that created a pod."""
    return str(pod["metadata"]["labels"][GROUP])


def read_pod(pod: Object) -> PodState:
    """Return the state of a claimed pod.

    One end of a container counts as a failure of the replica, although Kubernetes restarts the
    container. The reconciler alone decides about restarts.
    """
    metadata, status = pod["metadata"], pod.get("status", {})
    own, notes = metadata["labels"], metadata["annotations"]
    address = status.get("podIP", "")
    container = Container(
        metadata["name"],
        ReplicaId(ModelVersion(own[MODEL], own[VERSION]), int(own[GATE])),
        ReplicaState.STARTING,
        join_host_port(address, PORT) if address else "",
        started_at=datetime.fromisoformat(notes[STARTED_AT]),
        labels={
            "cluster": own[CLUSTER],
            "model": own[MODEL],
            "version": own[VERSION],
            "replica": own[GATE],
            "artifact": notes[ARTIFACT],
        },
    )
    has_failed = status.get("phase") == "Failed"
    # This check precedes the ends of containers, because those of an evicted pod look like a lack
    # of memory.
    if has_failed and (reason := status.get("message") or status.get("reason")):
        return PodState(_as_failed(container, reason))
    if is_deleted(pod):
        return PodState(_as_failed(container, _deletion(status)))
    if (ended := _exit_state(pod, container)) is not None:
        return ended
    if has_failed:
        return PodState(_as_failed(container, "its pod failed"))
    if condition_of(status, "Ready").get("status") == "True":
        return PodState(replace(container, state=ReplicaState.READY))
    return PodState(replace(container, reason=waiting_reason(pod)))


def _as_failed(container: Container, reason: str) -> Container:
    return replace(container, state=ReplicaState.FAILED, reason=reason)


def _exit_state(pod: Object, container: Container) -> PodState | None:
    """Return how a container of the pod failed, or None if none did."""
    for each in container_statuses(pod.get("status", {})):
        is_server = each["name"] == SERVER_CONTAINER
        is_again = "terminated" not in each["state"]
        end = each["state"].get("terminated") or each.get("lastState", {}).get("terminated")
        if end is None or (not is_server and end["exitCode"] == 0):
            continue
        status = end["exitCode"]
        if end.get("reason") == "OOMKilled":
            reason = f"ran out of memory: its limit is {_memory_limit(pod, each['name'])}"
        elif status == _SIGNALLED and end.get("message"):
            reason = f"cannot start its container: {end['message']}"
        elif not is_server and status != ExitCode.UNAVAILABLE:
            reason = "cannot fetch its artifact"
        else:
            reason = exit_reason(_SIGNALLED - status if status > _SIGNALLED else status)
        failed = replace(
            _as_failed(container, reason), is_permanent=is_server and status == ExitCode.LOAD_FAILED
        )
        return PodState(failed, each["name"], is_again)
    return None


def _memory_limit(pod: Object, name: str) -> str:
    every = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
    found = next(each for each in every if each["name"] == name)
    limit = str(found.get("resources", {}).get("limits", {}).get("memory", "that of its node"))
    # Skysail writes MiB everywhere.
    return f"{limit.removesuffix('Mi')} MiB" if limit.endswith("Mi") else limit


def _deletion(status: Object) -> str:
    disruption = condition_of(status, "DisruptionTarget")
    if disruption.get("status") == "True":
        return f"its pod is removed: {disruption.get('message') or disruption['reason']}"
    return "its pod was deleted"

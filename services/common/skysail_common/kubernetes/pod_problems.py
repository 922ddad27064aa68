"""Reasons why a pod does not start, read from its JSON, for people."""

import re

from skysail_common.kubernetes.kinds import Object

_IMAGE_PROBLEMS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName"})
_CONFIGURATION_PROBLEMS = frozenset({"CreateContainerConfigError", "InvalidImageName"})
_MISSING = re.compile(r'(secret|configmap) "[^"]+" not found|references non-existent secret key')
_NO_PROBLEMS = frozenset({"", "ContainerCreating", "PodInitializing"})


def condition_of(status: Object, kind: str) -> Object:
    """Return a condition of a pod's status; an empty object if the pod lacks it."""
    for condition in status.get("conditions", ()):
        if condition["type"] == kind:
            return dict(condition)
    return {}


def container_statuses(status: Object) -> list[Object]:
    """Return the status of each container of a pod, init containers first."""
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def waiting_reason(pod: Object) -> str:
    """Return why a pod does not start; empty if it has no problem so far."""
    status = pod.get("status", {})
    scheduled = condition_of(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return f"no node can hold it: {scheduled.get('message', '')}"
    for each in container_statuses(status):
        waiting = each["state"].get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _IMAGE_PROBLEMS:
            text = f"image {each['image']} cannot be pulled"
            # ErrImagePull carries the cause, ImagePullBackOff does not.
            return text if reason == "ImagePullBackOff" or not message else f"{text}: {message}"
        if reason not in _NO_PROBLEMS:
            return f"container {each['name']} cannot be started: {message or reason}"
    return ""


def problem_of(pod: Object) -> str:
    """Return why a pod does not start, or that it ended; empty if it has no problem so far."""
    for each in container_statuses(pod.get("status", {})):
        end = each["state"].get("terminated") or each.get("lastState", {}).get("terminated")
        if end is not None and end["exitCode"] != 0:
            return f"container {each['name']} ended with status {end['exitCode']}"
    return waiting_reason(pod)


def is_lasting(pod: Object, reason: str) -> bool:
    """Return whether a pod waits for an operator: for its image, a Secret or a ConfigMap.

    Args:
        pod: The pod.
        reason: Reason why the pod does not start, possibly from a warning event of Kubernetes.
    """
    waiting = [
        each["state"].get("waiting", {}).get("reason", "")
        for each in container_statuses(pod.get("status", {}))
    ]
    if any(each in _IMAGE_PROBLEMS or each in _CONFIGURATION_PROBLEMS for each in waiting):
        return True
    return _MISSING.search(reason) is not None

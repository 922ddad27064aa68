"""Check for missing Secrets before any object of a cluster is applied."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotAllowed, NotInCluster
from skysail_common.kubernetes.kinds import SECRET, Object, kind_of

_GENERATED = "password"
"""Key of the store's Secret, which `skysail up` fills."""


@dataclass(frozen=True, order=True)
class RequiredSecret:
    """A Secret, or a key of it, that a workload needs to start."""

    secret: str
    key: str
    """Empty for the Secret as a whole."""
    workload: str
    """Kind and name of the workload, such as `Deployment skysail-frontend`."""


def required_secrets(objects: Iterable[Object]) -> list[RequiredSecret]:
    """Return the Secrets that the pods of the objects need, without optional ones."""
    found = set()
    for manifest in objects:
        template = manifest.get("spec", {}).get("template")
        if isinstance(template, dict) and "spec" in template:
            workload = f"{manifest['kind']} {manifest['metadata']['name']}"
            found |= {
                RequiredSecret(name, key, workload) for name, key in _pod_secrets(template["spec"])
            }
    return sorted(found)


def _pod_secrets(pod: Object) -> Iterator[tuple[str, str]]:
    for volume in pod.get("volumes", ()):
        source = volume.get("secret")
        if source and not source.get("optional"):
            yield source["secretName"], ""
    for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
        for source in container.get("envFrom", ()):
            reference = source.get("secretRef")
            if reference and not reference.get("optional"):
                yield reference["name"], ""
        for variable in container.get("env", ()):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference and not reference.get("optional"):
                yield reference["name"], reference["key"]


async def check_secrets(api: KubernetesApi, objects: Sequence[Object]) -> None:
    """Check that every required Secret is among the objects, or in the namespace.

    Raises:
        FailedPrecondition: a Secret is missing or lacks a key; the message names the workload.
        ContainerManagerUnavailable: Kubernetes does not answer.
    """
    applied = {
        each["metadata"]["name"]: {*each.get("data", {}), *each.get("stringData", {})}
        for each in objects
        if kind_of(each) == SECRET
    }
    others = [each for each in objects if kind_of(each) != SECRET and not _has_pods(each)]
    missing = []
    for need in required_secrets(objects):
        # A Certificate, for example, creates the Secret that it names.
        if any(need.secret in _texts(each) for each in others):
            continue
        if need.secret in applied and need.key in ("", _GENERATED, *applied[need.secret]):
            continue
        try:
            keys: set[str] = {*(await api.get(SECRET, need.secret)).get("data", {})}
        except NotInCluster:
            keys = set()
            if need.secret not in applied:
                missing.append(f"Secret {need.secret!r} is missing, which {need.workload} needs")
                continue
        except NotAllowed:
            return
        if need.key and need.key not in keys:
            missing.append(
                f"Secret {need.secret!r} has no {need.key!r}, which {need.workload} needs"
            )
    if missing:
        raise FailedPrecondition(
            f"cannot start the cluster in namespace {api.namespace!r}: {'; '.join(missing)}; make "
            f"it with 'kubectl -n {api.namespace} create secret'"
        )


def _has_pods(manifest: Object) -> bool:
    return "template" in manifest.get("spec", {})


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value

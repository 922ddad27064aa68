"""Removes a cluster from Kubernetes, and keeps its data unless these are to go too."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from skysail.clusters.kubernetes.namespace import CREATED_BY_SKYSAIL
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes.anchor import anchor_name
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotAllowed, NotInCluster
from skysail_common.kubernetes.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NAMESPACE,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    SECRET,
    SERVICE,
    Kind,
    Object,
)
from skysail_common.kubernetes.labels import LABEL, labels

VOLUMES = f"{LABEL}volumes"
"""Label of the volumes of a node: the namespace and the cluster to which they belong."""

DATA_KINDS = (SECRET, PERSISTENT_VOLUME_CLAIM)
"""Kinds that the anchor does not own, because they outlive a cluster that is removed."""

_NAME = "kubernetes.io/metadata.name"
"""Label that every namespace has."""

_REMOVE_TIMEOUT_S = 120.0
_INHABITANTS = (POD, DEPLOYMENT, SERVICE, *DATA_KINDS)
"""Kinds of which one object, whoever made it, keeps a namespace."""


@dataclass(frozen=True)
class Removed:
    """What became of a cluster."""

    was_there: bool
    kept: list[str] = field(default_factory=list)
    """Claims and Secrets that stay, such as `Secret skysail-store`."""
    directories: list[str] = field(default_factory=list)
    """Directories of nodes whose content stays although their volumes were deleted."""


async def remove(
    api: KubernetesApi, options: KubernetesOptions, *, deletes_data: bool, anchor_uid: str = ""
) -> Removed:
    """Remove a cluster with its replicas, and its claims, volumes and Secrets if they are to go too.

    Args:
        api: The Kubernetes cluster, opened.
        options: The cluster.
        deletes_data: Whether claims, volumes and Secrets are deleted.
        anchor_uid: Identity of the cluster that is meant; any if empty.

    Raises:
        ContainerManagerUnavailable: Kubernetes does not answer.
        FailedPrecondition: another cluster has its name now, or something is not gone in time.
    """
    name = anchor_name(options.cluster)
    own = labels(options.cluster)
    try:
        anchor = await api.get(CONFIG_MAP, name)
    except NotInCluster:
        anchor = {}
    if anchor:
        found_uid = anchor["metadata"]["uid"]
        if anchor_uid and found_uid != anchor_uid:
            raise FailedPrecondition(
                f"cannot remove cluster {options.cluster!r}: the one in {options.where(api.server)} "
                "is not the one that was started from this data directory; name it with "
                "--container-manager kubernetes and --namespace if you mean it"
            )
        # A deletion in the foreground is done when all that the anchor owns is gone.
        await api.delete(CONFIG_MAP, name, propagation="Foreground", uid=found_uid)
    where = f"the cluster in namespace {options.namespace}"
    await wait_for_removal(_wait_until_removed(api, name, own), where)
    data = await _data_objects(api, options)
    kept, directories = [], []
    for each in data:
        kind = Kind(each["apiVersion"], each["kind"])
        if deletes_data:
            await api.delete(kind, each["metadata"]["name"])
            directories += _directories(each)
        elif not kind.is_cluster_wide:
            kept.append(f"{kind.kind} {each['metadata']['name']}")
    await _remove_namespace(api)
    return Removed(bool(anchor) or (deletes_data and bool(data)), kept, sorted(directories))


async def _data_objects(api: KubernetesApi, options: KubernetesOptions) -> list[Object]:
    """Return the Secrets, claims and volumes of a cluster."""
    owner = f"{options.namespace}.{options.cluster}"
    found = []
    for kind in (*DATA_KINDS, PERSISTENT_VOLUME):
        try:
            every = await api.list(kind, labels(options.cluster))
        except NotAllowed:
            continue
        # Volumes are in no namespace: those of a cluster elsewhere differ by this label alone.
        found += [
            each
            for each in every
            if not kind.is_cluster_wide or each["metadata"]["labels"].get(VOLUMES) == owner
        ]
    return found


def _directories(volume: Object) -> list[str]:
    spec = volume.get("spec", {})
    source = spec.get("local") or {}
    return [str(source["path"])] if "path" in source else []


async def _wait_until_removed(api: KubernetesApi, anchor: str, own: Mapping[str, str]) -> None:
    async with aclosing(api.watch(CONFIG_MAP, own)) as changes:
        async for change in changes:
            names = {each["metadata"]["name"] for each in change.objects}
            if change.is_gone and anchor in names:
                break
            if change.listed is not None and anchor not in names:
                break
    # Nothing owns a released pod, and the management that released it may have ended since.
    for pod in await api.list(POD, own):
        if "ownerReferences" not in pod["metadata"]:
            await api.delete(POD, pod["metadata"]["name"])
    await wait_until_absent(api, POD, own)


async def wait_until_absent(api: KubernetesApi, kind: Kind, chosen: Mapping[str, str]) -> None:
    """Return once there are no objects of a kind with these labels."""
    left: set[str] = set()
    async with aclosing(api.watch(kind, chosen)) as changes:
        async for change in changes:
            names = {each["metadata"]["name"] for each in change.objects}
            left = left - names if change.is_gone else left | names
            if not left:
                return


async def _remove_namespace(api: KubernetesApi) -> None:
    """Delete a namespace that was made for Skysail and has no inhabitants left."""
    name = api.namespace
    try:
        found = await api.get(NAMESPACE, name)
        if CREATED_BY_SKYSAIL not in found["metadata"].get("annotations", {}):
            return
        if await api.list(CONFIG_MAP, {"app.kubernetes.io/name": "skysail"}):
            return
        for kind in _INHABITANTS:
            if any(
                "deletionTimestamp" not in each["metadata"] for each in await api.list(kind, {})
            ):
                return
    except (NotAllowed, NotInCluster):
        return
    await api.delete(NAMESPACE, name)
    # The next `up` must not meet it on its way out.
    await wait_for_removal(wait_until_absent(api, NAMESPACE, {_NAME: name}), f"namespace {name}")


async def wait_for_removal(removal: Coroutine[Any, Any, None], what: str) -> None:
    """Await a removal.

    Raises:
        FailedPrecondition: it takes longer than two minutes.
    """
    try:
        await asyncio.wait_for(removal, _REMOVE_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise FailedPrecondition(
            f"{what} is not gone after {_REMOVE_TIMEOUT_S:g} s: see what 'kubectl get all' shows there"
        ) from None

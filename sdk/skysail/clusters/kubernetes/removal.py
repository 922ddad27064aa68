"""Removal of a cluster from Kubernetes, with or without its data."""

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
"""Label of volumes on a node, with their namespace and cluster."""

DATA_KINDS = (SECRET, PERSISTENT_VOLUME_CLAIM)
"""Kinds that the anchor does not own, because they outlive the cluster."""

_NAME = "kubernetes.io/metadata.name"
"""Label that every namespace has."""

_REMOVE_TIMEOUT_S = 120.0
_INHABITANTS = (POD, DEPLOYMENT, SERVICE, *DATA_KINDS)
"""Kinds of objects that keep a namespace from being removed."""


@dataclass(frozen=True)
class Removed:
    """The result of a removal."""

    was_there: bool
    kept: list[str] = field(default_factory=list)
    """Claims and Secrets that were kept, such as `Secret skysail-store`."""
    directories: list[str] = field(default_factory=list)
    """Directories of nodes with the content of deleted volumes."""


async def remove(
    api: KubernetesApi, options: KubernetesOptions, *, deletes_data: bool, anchor_uid: str = ""
) -> Removed:
    """Remove a cluster with its replicas, and optionally its claims, volumes and Secrets.

    Args:
        api: Client of Kubernetes, opened.
        options: The cluster.
        deletes_data: True to delete claims, volumes and Secrets.
        anchor_uid: Identity of the only cluster to remove; any if empty.

    Raises:
        ContainerManagerUnavailable: Kubernetes does not answer.
        FailedPrecondition: another cluster has the name now, or an object is not removed in time.
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
                "is not the one that was started from this data directory; to remove it anyway, name "
                "it with --container-manager kubernetes and --namespace"
            )
        # A deletion in the foreground ends when all objects that the anchor owns are removed.
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
        # Volumes have no namespace, so that only this label tells those of another cluster.
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
    # A released pod has no owner, and the management that released it may have ended.
    for pod in await api.list(POD, own):
        if "ownerReferences" not in pod["metadata"]:
            await api.delete(POD, pod["metadata"]["name"])
    await wait_until_absent(api, POD, own)


async def wait_until_absent(api: KubernetesApi, kind: Kind, chosen: Mapping[str, str]) -> None:
    """Wait until no object of a kind has these labels."""
    left: set[str] = set()
    async with aclosing(api.watch(kind, chosen)) as changes:
        async for change in changes:
            names = {each["metadata"]["name"] for each in change.objects}
            left = left - names if change.is_gone else left | names
            if not left:
                return


async def _remove_namespace(api: KubernetesApi) -> None:
    """Delete a namespace that Skysail created, unless it contains other objects."""
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
    # The next `up` must not find the namespace in deletion.
    await wait_for_removal(wait_until_absent(api, NAMESPACE, {_NAME: name}), f"namespace {name}")


async def wait_for_removal(removal: Coroutine[Any, Any, None], what: str) -> None:
    """Await a removal.

    Raises:
        FailedPrecondition: the removal takes longer than two minutes.
    """
    try:
        await asyncio.wait_for(removal, _REMOVE_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise FailedPrecondition(
            f"cannot remove {what}: objects are left after {_REMOVE_TIMEOUT_S:g} s; list them with "
            "'kubectl get all'"
        ) from None

"""Start and removal of the services of a cluster on Kubernetes."""

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace

from skysail.clusters.base import Progress
from skysail.clusters.kubernetes.cluster_record import ClusterRecord
from skysail.clusters.kubernetes.namespace import ensure_namespace
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.kubernetes.prerequisites import check_secrets
from skysail.clusters.kubernetes.pull_secret import with_pull_secret
from skysail.clusters.kubernetes.readiness import Readiness
from skysail.clusters.kubernetes.removal import (
    DATA_KINDS,
    Removed,
    remove,
    wait_for_removal,
    wait_until_absent,
)
from skysail.clusters.kubernetes.service_addresses import find_endpoints
from skysail.clusters.options import ClusterEndpoints
from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes.anchor import anchor_manifest, owned_by
from skysail_common.kubernetes.errors import ClusterRefused, NotInCluster
from skysail_common.kubernetes.kinds import SECRET, SERVICE_ACCOUNT, Kind, Object, kind_of
from skysail_common.kubernetes.labels import COMPONENT, labels

_JOB = Kind("batch/v1", "Job")


class KubernetesServices:
    """The services of one cluster in one namespace."""

    def __init__(self, options: KubernetesOptions) -> None:
        """Creates the client of Kubernetes without connecting."""
        self._options = options
        self._api = options.api()
        self._labels = labels(options.cluster)
        self._anchor: Object = {}

    async def open(self) -> str:
        """Connect to the API server and return the location of the cluster, for people.

        Raises:
            FailedPrecondition: no Kubernetes configuration is found.
        """
        await self._api.open()
        self._options = replace(self._options, context=self._api.context)
        return self._options.where(self._api.server)

    async def close(self) -> None:
        """Close the connection to Kubernetes."""
        await self._api.close()

    async def check(self, objects: Sequence[Object]) -> None:
        """Check that no Secret is missing; see `prerequisites.check_secrets`."""
        await check_secrets(self._api, objects)

    async def claim(self, progress: Progress) -> ClusterRecord:
        """Create the namespace and the anchor if they do not exist, and return the record of the cluster.

        Raises:
            NotAllowed: a role lacks a rule; the message names it.
            ContainerManagerUnavailable: Kubernetes does not answer.
        """
        if await ensure_namespace(self._api):
            progress(f"namespace {self._options.namespace} is created")
        self._anchor = await self._api.apply(anchor_manifest(self._options.cluster))
        return ClusterRecord(self._options, self._api.server, self._anchor["metadata"]["uid"])

    async def start(self, objects: Iterable[Object], progress: Progress) -> None:
        """Apply the objects of a claimed cluster and return once every service is ready.

        Raises:
            StartFailed: a service does not become ready; the message has the reason of each pod.
            NotAllowed: a role lacks a rule; the message names it.
            FailedPrecondition: Kubernetes refuses an object.
            ContainerManagerUnavailable: Kubernetes does not answer.
        """
        count = 0
        for manifest in objects:
            await self._apply(await self._completed(manifest))
            count += 1
        progress(f"{count} objects are applied in namespace {self._options.namespace}")
        clock = asyncio.get_running_loop().time
        await Readiness(self._api, self._labels, progress, clock).wait()

    async def _completed(self, manifest: Object) -> Object:
        """Return a manifest with its owner, and with values that only the cluster has."""
        kind = kind_of(manifest)
        if kind == SECRET:
            return await self._with_content(manifest)
        # Data outlive the cluster, and a cluster-wide object cannot have an owner in a namespace.
        if kind in DATA_KINDS or kind.is_cluster_wide:
            return manifest
        if kind == SERVICE_ACCOUNT:
            manifest = await with_pull_secret(self._api, self._options, manifest)
        return owned_by(self._anchor, manifest)

    async def _apply(self, manifest: Object) -> None:
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        try:
            if kind == _JOB:
                await self._apply_job(manifest)
            else:
                await self._api.apply(manifest)
        except ClusterRefused as error:
            text = f"cannot apply {kind.kind} {name}: {error.message}"
            raise FailedPrecondition(text) from error

    async def _apply_job(self, manifest: Object) -> None:
        """Apply a Job; replace one with another template, because the template is immutable."""
        try:
            await self._api.apply(manifest)
        except ClusterRefused:
            name, own = manifest["metadata"]["name"], manifest["metadata"]["labels"]
            await self._api.delete(_JOB, name, propagation="Foreground")
            await wait_for_removal(wait_until_absent(self._api, _JOB, own), f"Job {name}")
            await self._api.apply(manifest)

    async def _with_content(self, secret: Object) -> Object:
        """Return a Secret with its present content, and with a password if it needs one."""
        try:
            found = await self._api.get(SECRET, secret["metadata"]["name"])
        except NotInCluster:
            found = {}
        content = {**found.get("data", {}), **secret.get("data", {})}
        is_store = secret["metadata"]["labels"].get(COMPONENT) == "store"
        if is_store and "password" not in content:
            return {**secret, "stringData": {"password": secrets.token_hex(24)}}
        return {**secret, "data": content}

    async def endpoints(self) -> ClusterEndpoints:
        """Return the endpoints of the cluster; those that this machine cannot reach are empty."""
        return await find_endpoints(self._api, self._labels)

    async def remove(self, *, deletes_data: bool, anchor_uid: str = "") -> Removed:
        """Remove the cluster; see `removal.remove`."""
        return await remove(
            self._api, self._options, deletes_data=deletes_data, anchor_uid=anchor_uid
        )

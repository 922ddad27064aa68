"""The observed pods of the replicas of one cluster, and their Kubernetes Deployments.

A Kubernetes Deployment creates identical pods and ends any of them. A replica has an index, and
management decides which replica ends. Two labels bridge the difference:

* A new pod waits at a scheduling gate. `claim` gives it an index and opens the gate, so that it
  starts as that replica. The replacement of a pod that is gone waits there, too.
* `release` detaches a pod from its Deployment, so that a lower count ends no other pod.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from skysail_common.errors import SkysailError
from skysail_common.kubernetes.anchor import anchor_manifest, owned_by
from skysail_common.kubernetes.api import KubernetesApi, WatchEvent
from skysail_common.kubernetes.errors import ClusterRefused, NotInCluster
from skysail_common.kubernetes.kinds import DEPLOYMENT, POD, Object
from skysail_common.kubernetes.labels import MODEL_SERVER, labels
from skysail_common.process.backoff import BackOff
from skysail_management.containers.base import ReplicaSpec
from skysail_management.containers.kubernetes import manifests
from skysail_management.containers.kubernetes.manifests import (
    ATTACHED,
    DELETION_COST,
    GATE,
    STARTED_AT,
)
from skysail_management.containers.kubernetes.pod_states import (
    group_name,
    is_attached,
    is_claimed,
    is_deleted,
    is_free,
)

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0
_CLAIM_TIMEOUT_S = 30.0
_RELEASE_TIMEOUT_S = 10.0


@dataclass
class _PodGroup:
    """An observed Kubernetes Deployment."""

    is_made: bool = False
    """True while it exists, as far as management knows."""
    owner: Object = field(default_factory=dict)
    """Its last observed state; it owns its Secret and its disruption budget."""
    has_parts: bool = False
    """True after management created these."""
    num_claiming: int = 0
    """Claims in flight, each of which needs one more pod."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class KubernetesPods:
    """Observes the pods, and claims, releases and deletes them."""

    def __init__(
        self, api: KubernetesApi, cluster: str, on_change: Callable[[str, Object | None], None]
    ) -> None:
        """Create an empty observation; `open` fills it.

        Args:
            api: The Kubernetes cluster.
            cluster: Name of the Skysail cluster.
            on_change: Called with the name of a pod and its new state, or None when it is gone.
        """
        self.pods: dict[str, Object] = {}
        """Every pod of a replica, by name."""
        self._api = api
        self._cluster = cluster
        self._labels = labels(cluster, MODEL_SERVER)
        self._on_change = on_change
        self._changed = asyncio.Condition()
        self._groups: dict[str, _PodGroup] = {}
        self._anchor: Object = {}
        self._claimed_names: set[str] = set()
        self._touched: set[str] = set()
        """Pods that changed since the last `refresh` began."""
        self._changes: AsyncGenerator[WatchEvent, None] | None = None

    async def open(self) -> None:
        """Create the anchor and list the pods; `follow` keeps the observation up to date.

        Raises:
            ContainerManagerUnavailable: the Kubernetes cluster does not answer.
            NotAllowed: a role lacks a rule.
        """
        self._anchor = await self._api.apply(anchor_manifest(self._cluster))
        self._groups = {
            found["metadata"]["name"]: _PodGroup(is_made=True, owner=found)
            for found in await self._api.list(DEPLOYMENT, self._labels)
        }
        self._changes = self._api.watch(POD, self._labels)
        await self._apply(await anext(self._changes))

    async def follow(self) -> None:
        """Keep the observation up to date until this is cancelled."""
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            changes = self._changes or self._api.watch(POD, self._labels)
            self._changes = None
            try:
                async with contextlib.aclosing(changes):
                    async for change in changes:
                        await self._apply(change)
                        back_off.reset()
            except SkysailError as error:
                log.warning("pod watch failed", extra={"error": error.message})
            except Exception:
                # The watch continues after any error, because a manager without a watch is useless.
                log.exception("pod watch failed")
            await asyncio.sleep(back_off.next_s())

    async def refresh(self) -> None:
        """Correct the observed pods by a list, for events that the watch missed.

        Raises:
            ContainerManagerUnavailable: the Kubernetes cluster does not answer.
            NotAllowed: a role lacks a rule.
        """
        known = set(self.pods)
        self._touched.clear()
        listed = await self._api.list(POD, self._labels)
        # A pod that the watch reported during the request may be newer than in the list.
        touched = set(self._touched)
        self._apply_list(
            {name for name in known if name not in touched},
            [pod for pod in listed if pod["metadata"]["name"] not in touched],
        )
        async with self._changed:
            self._changed.notify_all()

    async def _apply(self, change: WatchEvent) -> None:
        if change.listed is not None:
            self._apply_list(set(self.pods), change.listed)
        elif change.changed is not None:
            if change.is_gone:
                self._drop(change.changed["metadata"]["name"])
            else:
                self._record(change.changed)
        async with self._changed:
            self._changed.notify_all()

    def _apply_list(self, known: Collection[str], listed: Sequence[Object]) -> None:
        """Record the pods of a list, and drop the known ones that it lacks."""
        found = {pod["metadata"]["name"] for pod in listed}
        for name in known:
            if name not in found:
                self._drop(name)
        for pod in listed:
            self._record(pod)

    def _record(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        if _is_older(pod, self.pods.get(name)):
            # A list may be newer than the watch.
            return
        self._touched.add(name)
        if name in self._claimed_names and not is_claimed(pod):
            # The report is older than the claim, although it arrived after its response.
            return
        try:
            group_name(pod)
            self._on_change(name, pod)
        except Exception:
            # A broken pod, or a foreign pod with these labels, must not hide the others.
            log.exception("pod not readable", extra={"pod": name})
        else:
            self.pods[name] = pod

    def _drop(self, name: str) -> None:
        self._touched.add(name)
        self._claimed_names.discard(name)
        if self.pods.pop(name, None) is not None:
            self._on_change(name, None)

    async def claim(self, spec: ReplicaSpec, manifest: Object) -> Object:
        """Claim a pod for a replica, which starts as that replica, and return it.

        Args:
            spec: The replica.
            manifest: The Kubernetes Deployment of such replicas.

        Raises:
            ContainerManagerUnavailable: the Kubernetes cluster does not answer.
            SkysailError: Kubernetes created no pod, with the reason.
        """
        name = manifest["metadata"]["name"]
        group = self._groups.setdefault(name, _PodGroup())
        group.num_claiming += 1
        try:
            # A Deployment of an earlier management may lack its Secret or budget.
            if not group.has_parts:
                await self._create(group, spec, manifest)
            while not await self._scale(name, group):
                await self._create(group, spec, manifest)
            return await self._claim_free_pod(name, spec)
        except asyncio.TimeoutError:
            reason = await self._why_no_pod(name)
            raise SkysailError(
                f"cannot start {spec.replica_id}: no pod was created: {reason}"
            ) from None
        finally:
            group.num_claiming -= 1

    async def _create(self, group: _PodGroup, spec: ReplicaSpec, manifest: Object) -> None:
        """Create a Kubernetes Deployment and its objects, unless another claim has done so."""
        name = manifest["metadata"]["name"]
        async with group.lock:
            if not group.is_made:
                group.owner = await self._api.apply(owned_by(self._anchor, manifest))
                group.has_parts = False
            if not group.has_parts:
                for part in (
                    manifests.replica_secret(name, spec, self._cluster),
                    manifests.disruption_budget(name, self._cluster),
                ):
                    await self._api.apply(owned_by(group.owner, part))
            group.is_made = group.has_parts = True

    async def _scale(self, name: str, group: _PodGroup) -> bool:
        """Scale to the claimed pods and the claims in flight; return False without a Deployment.

        The patch is sent even if the count is unchanged, because someone may have edited the
        Deployment.
        """
        async with group.lock:
            if group.is_made:
                change = {"spec": {"replicas": self._num_wanted(name, group)}}
                try:
                    await self._api.patch(DEPLOYMENT, name, change, "scale")
                except NotInCluster:
                    group.is_made = False
            return group.is_made

    def _num_wanted(self, name: str, group: _PodGroup) -> int:
        claimed = [
            pod
            for pod in self.pods.values()
            if group_name(pod) == name
            and is_claimed(pod)
            and is_attached(pod)
            and not is_deleted(pod)
        ]
        return len(claimed) + group.num_claiming

    async def _claim_free_pod(self, name: str, spec: ReplicaSpec) -> Object:
        tried: set[str] = set()
        loop = asyncio.get_running_loop()
        end = loop.time() + _CLAIM_TIMEOUT_S
        while True:
            # Pods are tried one after the other, because others come and go during a request.
            if (found := self._free_pod(name, tried)) is None:
                # The timeout covers only this wait, because the response to a claim in flight must
                # be read.
                async with self._changed:
                    await asyncio.wait_for(self._changed.wait(), end - loop.time())
                continue
            pod_name = found["metadata"]["name"]
            tried.add(pod_name)
            # Kubernetes refuses the claim if the pod ends or another claim took it.
            with contextlib.suppress(ClusterRefused):
                claimed = await self._api.patch(POD, pod_name, _claim(found, spec))
                self._claimed_names.add(pod_name)
                self._record(claimed)
                return claimed

    def _free_pod(self, name: str, tried: set[str]) -> Object | None:
        for pod_name, pod in self.pods.items():
            if pod_name not in tried and group_name(pod) == name and is_free(pod):
                return pod
        return None

    async def _why_no_pod(self, name: str) -> str:
        with contextlib.suppress(SkysailError):
            found = await self._api.get(DEPLOYMENT, name)
            for condition in found.get("status", {}).get("conditions", ()):
                if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                    return str(condition.get("message", condition.get("reason")))
        return f"Kubernetes created none within {_CLAIM_TIMEOUT_S:g} s"

    async def release(self, name: str) -> None:
        """Detach a running pod from its Deployment, so that Kubernetes does not replace it.

        Raises:
            ContainerManagerUnavailable: the Kubernetes cluster does not answer.
        """
        pod = self.pods.get(name)
        if pod is None:
            return
        with contextlib.suppress(NotInCluster):
            if pod["metadata"]["labels"].get(ATTACHED) == "true":
                change = {"metadata": {"labels": {ATTACHED: "false"}}}
                await self._api.patch(POD, name, change)

        def is_released() -> bool:
            pod = self.pods.get(name)
            return pod is None or is_deleted(pod) or not is_attached(pod)

        # The count is lowered after Kubernetes saw the detached pod, because it would end any pod
        # before.
        with contextlib.suppress(asyncio.TimeoutError):
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(is_released), _RELEASE_TIMEOUT_S)
        group = self._groups.get(group_name(pod))
        if group is not None:
            await self._scale(group_name(pod), group)

    async def delete(self, name: str, grace_s: int) -> None:
        """Delete a pod with a grace period; `on_change` reports its end.

        Raises:
            ContainerManagerUnavailable: the Kubernetes cluster does not answer.
        """
        await self._api.delete(POD, name, grace_s=grace_s)

    async def sweep(self) -> None:
        """Correct the count of scaled Deployments, and remove Deployments without a pod.

        Kubernetes removes their Secrets and budgets with them.
        """
        for found in await self._api.list(DEPLOYMENT, self._labels):
            name = found["metadata"]["name"]
            group = self._groups.setdefault(name, _PodGroup())
            if group.num_claiming or group.lock.locked():
                continue
            group.is_made, group.owner = True, found
            if any(group_name(pod) == name and is_claimed(pod) for pod in self.pods.values()):
                if found["spec"].get("replicas") != self._num_wanted(name, group):
                    await self._scale(name, group)
                continue
            # A concurrent claim waits for the lock, and creates the Deployment again.
            async with group.lock:
                await self._api.delete(DEPLOYMENT, name)
                group.is_made = False
            if not group.num_claiming:
                del self._groups[name]


def _is_older(pod: Object, known: Object | None) -> bool:
    """Return whether a report of a pod is older than the observed pod."""
    if known is None or pod["metadata"].get("uid") != known["metadata"].get("uid"):
        return False
    versions = [each["metadata"].get("resourceVersion", "") for each in (pod, known)]
    # Kubernetes defines an order of resource versions, but not that each is a number.
    return all(each.isdecimal() for each in versions) and int(versions[0]) < int(versions[1])


def _claim(pod: Object, spec: ReplicaSpec) -> list[Mapping[str, object]]:
    """Return the patch that gives a pod its index and opens its gate; it applies as a whole."""
    index = str(spec.replica_id.index)
    return [
        {"op": "test", "path": "/spec/schedulingGates", "value": pod["spec"]["schedulingGates"]},
        {"op": "remove", "path": "/spec/schedulingGates"},
        {"op": "add", "path": _pointer("labels", GATE), "value": index},
        {
            "op": "add",
            "path": _pointer("annotations", STARTED_AT),
            "value": datetime.now(timezone.utc).isoformat(),
        },
        # Kubernetes removes pods at the gate first, because they have a lower cost.
        {"op": "add", "path": _pointer("annotations", DELETION_COST), "value": "1"},
    ]


def _pointer(*names: str) -> str:
    return "/".join(["/metadata", *(name.replace("~", "~0").replace("/", "~1") for name in names)])

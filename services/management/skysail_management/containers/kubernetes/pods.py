"""The observed pods of one cluster's replicas, and their Kubernetes Deployments.

A Kubernetes Deployment makes pods that are all alike and ends any of them; replicas have an index and
management says which one ends. Hence two labels:

* A new pod waits at a scheduling gate. `claim` gives it an index and opens the gate, so that it starts
  as that replica. What Kubernetes makes in the place of a pod that is gone waits there, too.
* `release` takes a pod out of the count, so that the number can be lowered without any other ending.
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
class _Group:
    """An observed Kubernetes Deployment."""

    is_made: bool = False
    """True while it is there, as far as we know."""
    owner: Object = field(default_factory=dict)
    """As it was last seen; its Secret and its budget belong to it."""
    has_parts: bool = False
    """True once we have made these."""
    num_claiming: int = 0
    """Claims under way, each of which needs one more pod."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class KubernetesPods:
    """Keeps a picture of the pods, and claims, releases and deletes them."""

    def __init__(
        self, api: KubernetesApi, cluster: str, on_change: Callable[[str, Object | None], None]
    ) -> None:
        """Knows nothing before `open`.

        Args:
            api: The Kubernetes cluster.
            cluster: Name of ours.
            on_change: Is told a pod whenever it changes, or its name and None when it is gone.
        """
        self.pods: dict[str, Object] = {}
        """Every pod of a replica, by its name."""
        self._api = api
        self._cluster = cluster
        self._labels = labels(cluster, MODEL_SERVER)
        self._on_change = on_change
        self._changed = asyncio.Condition()
        self._groups: dict[str, _Group] = {}
        self._anchor: Object = {}
        self._claimed_names: set[str] = set()
        self._touched: set[str] = set()
        """Pods that were learned or forgotten since the last `refresh` began."""
        self._changes: AsyncGenerator[WatchEvent, None] | None = None

    async def open(self) -> None:
        """Make sure of the anchor, and learn what there is; `follow` keeps it up to date.

        Raises:
            ContainerManagerUnavailable: the Kubernetes cluster does not answer.
            NotAllowed: a role lacks a rule.
        """
        self._anchor = await self._api.apply(anchor_manifest(self._cluster))
        self._groups = {
            found["metadata"]["name"]: _Group(is_made=True, owner=found)
            for found in await self._api.list(DEPLOYMENT, self._labels)
        }
        self._changes = self._api.watch(POD, self._labels)
        await self._take(await anext(self._changes))

    async def follow(self) -> None:
        """Keep the picture up to date until this is cancelled."""
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            changes = self._changes or self._api.watch(POD, self._labels)
            self._changes = None
            try:
                async with contextlib.aclosing(changes):
                    async for change in changes:
                        await self._take(change)
                        back_off.reset()
            except SkysailError as error:
                log.warning("pods are not watched", extra={"error": error.message})
            except Exception:
                # Continue after any error, because a manager without a watch would be worse.
                log.exception("pods are not watched")
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
        self._replace(
            {name for name in known if name not in touched},
            [pod for pod in listed if pod["metadata"]["name"] not in touched],
        )
        async with self._changed:
            self._changed.notify_all()

    async def _take(self, change: WatchEvent) -> None:
        if change.listed is not None:
            self._replace(set(self.pods), change.listed)
        elif change.changed is not None:
            if change.is_gone:
                self._forget(change.changed["metadata"]["name"])
            else:
                self._learn(change.changed)
        async with self._changed:
            self._changed.notify_all()

    def _replace(self, known: Collection[str], listed: Sequence[Object]) -> None:
        """Learn the pods of a list, and forget those known ones that are not in it."""
        found = {pod["metadata"]["name"] for pod in listed}
        for name in known:
            if name not in found:
                self._forget(name)
        for pod in listed:
            self._learn(pod)

    def _learn(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        if _is_older(pod, self.pods.get(name)):
            # A list may be ahead of the watch.
            return
        self._touched.add(name)
        if name in self._claimed_names and not is_claimed(pod):
            # Told after the answer to our claim, of a time before it.
            return
        try:
            group_name(pod)
            self._on_change(name, pod)
        except Exception:
            # One pod, or another's with these labels, must not hide the others.
            log.exception("a pod cannot be read", extra={"pod": name})
        else:
            self.pods[name] = pod

    def _forget(self, name: str) -> None:
        self._touched.add(name)
        self._claimed_names.discard(name)
        if self.pods.pop(name, None) is not None:
            self._on_change(name, None)

    async def claim(self, spec: ReplicaSpec, manifest: Object) -> Object:
        """Add a pod, which starts as this replica, and return it.

        Args:
            spec: The replica.
            manifest: The Kubernetes Deployment of such replicas.

        Raises:
            ContainerManagerUnavailable: the Kubernetes cluster does not answer.
            SkysailError: there is no pod; says why.
        """
        name = manifest["metadata"]["name"]
        group = self._groups.setdefault(name, _Group())
        group.num_claiming += 1
        try:
            # What an earlier management made may lack what goes with it.
            if not group.has_parts:
                await self._make(group, spec, manifest)
            while not await self._is_scaled(name, group):
                await self._make(group, spec, manifest)
            return await self._claimed(name, spec)
        except asyncio.TimeoutError:
            reason = await self._why_no_pod(name)
            raise SkysailError(f"no pod was made for {spec.replica_id}: {reason}") from None
        finally:
            group.num_claiming -= 1

    async def _make(self, group: _Group, spec: ReplicaSpec, manifest: Object) -> None:
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

    async def _is_scaled(self, name: str, group: _Group) -> bool:
        """Scale to the claimed pods and those about to be; False without a Kubernetes Deployment.

        Told again also where nothing changes: somebody may have scaled or deleted it.
        """
        async with group.lock:
            if group.is_made:
                change = {"spec": {"replicas": self._num_wanted(name, group)}}
                try:
                    await self._api.patch(DEPLOYMENT, name, change, "scale")
                except NotInCluster:
                    group.is_made = False
            return group.is_made

    def _num_wanted(self, name: str, group: _Group) -> int:
        claimed = [
            pod
            for pod in self.pods.values()
            if group_name(pod) == name
            and is_claimed(pod)
            and is_attached(pod)
            and not is_deleted(pod)
        ]
        return len(claimed) + group.num_claiming

    async def _claimed(self, name: str, spec: ReplicaSpec) -> Object:
        tried: set[str] = set()
        loop = asyncio.get_running_loop()
        end = loop.time() + _CLAIM_TIMEOUT_S
        while True:
            # One after the other: others come, and go, while an answer is waited for.
            if (found := self._free_pod(name, tried)) is None:
                # Only this has an end: of a claim that is on its way the answer must be heard.
                async with self._changed:
                    await asyncio.wait_for(self._changed.wait(), end - loop.time())
                continue
            pod_name = found["metadata"]["name"]
            tried.add(pod_name)
            # One that another took, or that ends, is none for us.
            with contextlib.suppress(ClusterRefused):
                claimed = await self._api.patch(POD, pod_name, _claim(found, spec))
                self._claimed_names.add(pod_name)
                self._learn(claimed)
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
        return f"Kubernetes made none within {_CLAIM_TIMEOUT_S:g} s"

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

        # Only when Kubernetes has seen it: with a lower number alone it would end any of them.
        with contextlib.suppress(asyncio.TimeoutError):
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(is_released), _RELEASE_TIMEOUT_S)
        group = self._groups.get(group_name(pod))
        if group is not None:
            await self._is_scaled(group_name(pod), group)

    async def delete(self, name: str, grace_s: int) -> None:
        """Tell a pod to end, within some seconds; it is gone when `on_change` says so.

        Raises:
            ContainerManagerUnavailable: the Kubernetes cluster does not answer.
        """
        await self._api.delete(POD, name, grace_s=grace_s)

    async def sweep(self) -> None:
        """Set right what somebody scaled, and remove the Kubernetes Deployments that have no pod.

        Their Secrets and budgets go with them.
        """
        for found in await self._api.list(DEPLOYMENT, self._labels):
            name = found["metadata"]["name"]
            group = self._groups.setdefault(name, _Group())
            if group.num_claiming or group.lock.locked():
                continue
            group.is_made, group.owner = True, found
            if any(group_name(pod) == name and is_claimed(pod) for pod in self.pods.values()):
                if found["spec"].get("replicas") != self._num_wanted(name, group):
                    await self._is_scaled(name, group)
                continue
            # A claim that comes meanwhile waits, and makes it anew.
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
    # Kubernetes defines their order, but not that each is a number.
    return all(each.isdecimal() for each in versions) and int(versions[0]) < int(versions[1])


def _claim(pod: Object, spec: ReplicaSpec) -> list[Mapping[str, object]]:
    """Return the steps that give a pod its index and let it start; none is taken if one fails."""
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
        # Pods that wait at the gate go first.
        {"op": "add", "path": _pointer("annotations", DELETION_COST), "value": "1"},
    ]


def _pointer(*names: str) -> str:
    return "/".join(["/metadata", *(name.replace("~", "~0").replace("/", "~1") for name in names)])

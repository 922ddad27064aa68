"""Makes, watches and removes the services of a cluster on Kubernetes."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from skysail.supervisor.kubernetes_namespace import MADE_BY_US, have_namespace
from skysail.supervisor.kubernetes_options import KubernetesOptions
from skysail.supervisor.kubernetes_registry import with_pull_secret
from skysail.supervisor.options import ClusterEndpoints
from skysail_common.child import StartFailed
from skysail_common.errors import FailedPrecondition, SkysailError
from skysail_common.kubernetes_anchor import anchor_manifest, anchor_name, owned_by
from skysail_common.kubernetes_errors import ClusterRefused, NotAllowed, NotInCluster
from skysail_common.kubernetes_kinds import (
    CONFIG_MAP,
    NAMESPACE,
    PERSISTENT_VOLUME,
    POD,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
    Object,
    kind_of,
)
from skysail_common.kubernetes_labels import COMPONENT, LABEL, LEADER, labels
from skysail_common.pod_problems import problem_of
from skysail_common.sockets import join_host_port

Progress = Callable[[str], None]
"""Is told a line of progress."""

_VOLUMES = f"{LABEL}volumes"
"""Label of the volumes of a node, which says of which namespace and cluster they are."""

_NAME = "kubernetes.io/metadata.name"
"""Label that every namespace has."""

_START_TIMEOUT_S = 180.0
_REMOVE_TIMEOUT_S = 120.0
_CHECK_S = 0.5
_BALANCER_CHECK_S, _BALANCER_CHECKS = 2.0, 30
_DIAL_TIMEOUT_S = 1.0
_LOG_TAIL_LINES = 20
_CLAIM = Kind("v1", "PersistentVolumeClaim")
_JOB = Kind("batch/v1", "Job")
_NODE = Kind("v1", "Node")
_SERVICES = ("management", "frontend", "store")
_PORTS = {"management": 8003, "grpc": 8001, "http": 8000, "metrics": 8002}


@dataclass(frozen=True)
class Door:
    """How a Service is reached."""

    kind: str
    """`ClusterIP`, `NodePort` or `LoadBalancer`."""
    host: str
    """Empty where there is none yet."""
    ports: dict[int, int]
    """The port to dial, by the port of the Service."""


class KubernetesServices:
    """The services of one cluster in one namespace."""

    def __init__(self, options: KubernetesOptions) -> None:
        """Does nothing yet."""
        self._options = options
        self._api = options.api()
        self._labels = labels(options.cluster)

    async def close(self) -> None:
        """Let go of the Kubernetes cluster."""
        await self._api.close()

    async def start(self, objects: Iterable[Object], progress: Progress) -> None:
        """Apply the objects and return once everything takes calls.

        Raises:
            StartFailed: something does not come up; says what and why.
            NotAllowed: whoever asks may not; names what the role lacks.
            ClusterRefused: Kubernetes takes one of them for wrong.
            ContainerManagerUnavailable: it does not answer.
        """
        await self._api.open()
        if await have_namespace(self._api):
            progress(f"namespace {self._options.namespace} is made")
        anchor = await self._api.apply(anchor_manifest(self._options.cluster))
        count = 0
        for manifest in objects:
            kind = kind_of(manifest)
            owned = manifest if kind.is_cluster_wide else owned_by(anchor, manifest)
            if kind == SECRET:
                owned = await self._with_content(owned)
            if kind == SERVICE_ACCOUNT:
                owned = await with_pull_secret(self._api, self._options, owned)
            await self._apply(owned)
            count += 1
        progress(f"{count} objects are applied in namespace {self._options.namespace}")
        try:
            await asyncio.wait_for(self._until_ready(progress), _START_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise StartFailed(
                f"the cluster is not ready after {_START_TIMEOUT_S:g} s{await self._problems()}"
            ) from None

    async def _apply(self, manifest: Object) -> None:
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        try:
            if kind == _JOB:
                await self._apply_job(manifest)
            else:
                await self._api.apply(manifest)
        except ClusterRefused as error:
            text = f"{kind.kind} {name} cannot be applied: {error.message}"
            raise FailedPrecondition(text) from error

    async def _apply_job(self, manifest: Object) -> None:
        """Apply a Job; one that was made otherwise cannot be changed and is replaced."""
        try:
            await self._api.apply(manifest)
        except ClusterRefused:
            name, own = manifest["metadata"]["name"], manifest["metadata"]["labels"]
            await self._api.delete(_JOB, name, propagation="Foreground")
            await _bounded(self._until_none(_JOB, own), f"Job {name}")
            await self._api.apply(manifest)

    async def _with_content(self, secret: Object) -> Object:
        """Return a Secret with what it holds already, or with a new password where it has none."""
        try:
            found = await self._api.get(SECRET, secret["metadata"]["name"])
        except NotInCluster:
            found = {}
        content = {**found.get("data", {}), **secret.get("data", {})}
        is_store = secret["metadata"]["labels"].get(COMPONENT) == "store"
        if is_store and "password" not in content:
            return {**secret, "stringData": {"password": secrets.token_hex(24)}}
        return {**secret, "data": content}

    async def _until_ready(self, progress: Progress) -> None:
        """Return once every service runs as it was applied, and one of management leads."""
        told: dict[str, str] = {}
        while True:
            pods = await self._service_pods()
            for pod in pods:
                name = pod["metadata"]["name"]
                state = "ready" if _is_ready(pod) else problem_of(pod)
                if state and told.get(name) != state:
                    told[name] = state
                    progress(f"{name}: {state}")
            if await self._is_complete(pods):
                return
            await asyncio.sleep(_CHECK_S)

    async def _service_pods(self) -> list[Object]:
        """Return the pods of the services, but those that end or have ended for good."""
        return [
            pod
            for pod in await self._api.list(POD, self._labels)
            if pod["metadata"]["labels"].get(COMPONENT) in _SERVICES
            and "deletionTimestamp" not in pod["metadata"]
            and pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")
        ]

    async def _is_complete(self, pods: list[Object]) -> bool:
        is_led = any(_is_ready(pod) and LEADER in pod["metadata"]["labels"] for pod in pods)
        if not is_led or not all(map(_is_ready, pods)):
            return False
        for kind in ("Deployment", "StatefulSet"):
            for found in await self._api.list(Kind("apps/v1", kind), self._labels):
                is_service = found["metadata"]["labels"].get(COMPONENT) in _SERVICES
                if is_service and not _is_rolled_out(found):
                    return False
        return True

    async def _problems(self) -> str:
        lines = []
        try:
            pods = await self._service_pods()
        except SkysailError as error:
            return f": {error.message}"
        for pod in pods:
            if _is_ready(pod):
                continue
            name = pod["metadata"]["name"]
            lines.append(f"{name}: {problem_of(pod) or 'not ready'}")
            lines += [f"    {line}" for line in await self._log_tail(pod)]
        return "".join(f"\n  {line}" for line in lines)

    async def _log_tail(self, pod: Object) -> list[str]:
        container = pod["spec"]["containers"][0]["name"]
        for previous in (True, False):
            try:
                async with self._api.log(
                    pod["metadata"]["name"], container, _LOG_TAIL_LINES, previous=previous
                ) as lines:
                    return [line.decode(errors="replace") async for line in lines]
            except SkysailError:
                continue
        return []

    async def doors(self) -> dict[str, Door]:
        """Return how management and the frontends are reached, by `management` and `frontend`."""
        found = {}
        for service in await self._api.list(SERVICE, self._labels):
            component = service["metadata"]["labels"].get(COMPONENT, "")
            if service["spec"].get("clusterIP") == "None":
                continue
            found[component] = await self._door(service)
        return found

    async def _door(self, service: Object) -> Door:
        spec = service["spec"]
        kind = spec.get("type", "ClusterIP")
        field = "nodePort" if kind == "NodePort" else "port"
        ports = {each["port"]: each.get(field, each["port"]) for each in spec["ports"]}
        if kind == "NodePort":
            return Door(kind, await self._node_address(), ports)
        if kind == "LoadBalancer":
            ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
            host = ingress[0].get("ip") or ingress[0].get("hostname", "") if ingress else ""
            return Door(kind, host, ports)
        return Door(kind, spec["clusterIP"], ports)

    async def _node_address(self) -> str:
        try:
            nodes = await self._api.list(_NODE, {})
        except NotAllowed:
            return ""
        wanted = ("ExternalIP", "InternalIP")
        for kind in wanted:
            for node in nodes:
                for address in node["status"].get("addresses", ()):
                    if address["type"] == kind:
                        return str(address["address"])
        return ""

    async def endpoints(self) -> ClusterEndpoints:
        """Return how the cluster is reached from here; empty where it is not.

        A load balancer is given a minute to come by its address.
        """
        doors = await self.doors()
        for _ in range(_BALANCER_CHECKS):
            if all(door.host or door.kind != "LoadBalancer" for door in doors.values()):
                break
            await asyncio.sleep(_BALANCER_CHECK_S)
            doors = await self.doors()

        async def endpoint(name: str) -> str:
            door = doors.get("management" if name == "management" else "frontend")
            if door is None or _PORTS[name] not in door.ports or not door.host:
                return ""
            found = join_host_port(door.host, door.ports[_PORTS[name]])
            # The addresses within a cluster are those of others, or nobody's, elsewhere.
            is_here = door.kind != "ClusterIP" or await _is_reached(door.host, _PORTS[name])
            return found if is_here else ""

        return ClusterEndpoints(*[await endpoint(name) for name in _PORTS])

    async def remove(self) -> bool:
        """Remove all that belongs to the cluster, replicas too; False if there was nothing.

        Raises:
            ContainerManagerUnavailable: Kubernetes does not answer.
            FailedPrecondition: something does not go.
        """
        await self._api.open()
        name = anchor_name(self._options.cluster)
        try:
            await self._api.get(CONFIG_MAP, name)
        except NotInCluster:
            was_there = False
        else:
            was_there = True
            # In the foreground: it is gone when all that it owns is.
            await self._api.delete(CONFIG_MAP, name, propagation="Foreground")
        where = f"the cluster in namespace {self._options.namespace}"
        await _bounded(self._until_gone(name), where)
        await self._remove_unowned()
        await self._remove_namespace()
        return was_there

    async def _remove_unowned(self) -> None:
        """Remove what has no owner: volumes are in no namespace, a login may come before the anchor."""
        own = f"{self._options.namespace}.{self._options.cluster}"
        for kind in (SECRET, _CLAIM, PERSISTENT_VOLUME):
            try:
                left = await self._api.list(kind, self._labels)
            except NotAllowed:
                continue
            for each in left:
                # Those of other namespaces have the same labels but for this one.
                is_ours = each["metadata"]["labels"].get(_VOLUMES) == own
                if not kind.is_cluster_wide or is_ours:
                    await self._api.delete(kind, each["metadata"]["name"])

    async def _until_gone(self, anchor: str) -> None:
        async with aclosing(self._api.watch(CONFIG_MAP, self._labels)) as changes:
            async for change in changes:
                names = {each["metadata"]["name"] for each in change.objects}
                if change.is_gone and anchor in names:
                    break
                if change.listed is not None and anchor not in names:
                    break
        # Those that were released belong to nobody, and who released them may have ended since.
        for pod in await self._api.list(POD, self._labels):
            if "ownerReferences" not in pod["metadata"]:
                await self._api.delete(POD, pod["metadata"]["name"])
        await self._until_none(POD, self._labels)

    async def _until_none(self, kind: Kind, chosen: Mapping[str, str]) -> None:
        left: set[str] = set()
        async with aclosing(self._api.watch(kind, chosen)) as changes:
            async for change in changes:
                names = {each["metadata"]["name"] for each in change.objects}
                left = left - names if change.is_gone else left | names
                if not left:
                    return

    async def _remove_namespace(self) -> None:
        name = self._options.namespace
        try:
            found = await self._api.get(NAMESPACE, name)
        except (NotAllowed, NotInCluster):
            return
        is_ours = MADE_BY_US in found["metadata"].get("annotations", {})
        others = await self._api.list(CONFIG_MAP, {"app.kubernetes.io/name": "skysail"})
        if is_ours and not others:
            await self._api.delete(NAMESPACE, name)
            # The next `up` must not meet it on its way out.
            await _bounded(self._until_none(NAMESPACE, {_NAME: name}), f"namespace {name}")


async def _is_reached(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _DIAL_TIMEOUT_S)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True


async def _bounded(removal: Coroutine[Any, Any, None], what: str) -> None:
    try:
        await asyncio.wait_for(removal, _REMOVE_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise FailedPrecondition(
            f"{what} is not gone after {_REMOVE_TIMEOUT_S:g} s: see what 'kubectl get all' shows there"
        ) from None


def _is_rolled_out(found: Object) -> bool:
    """Tell whether all pods of a Deployment or a StatefulSet are as it says, and ready."""
    wanted, status = found["spec"].get("replicas", 1), found.get("status", {})
    is_seen = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
    counts = (status.get("updatedReplicas", 0), status.get("readyReplicas", 0))
    return bool(is_seen and min(counts) >= wanted)


def _is_ready(pod: Object) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

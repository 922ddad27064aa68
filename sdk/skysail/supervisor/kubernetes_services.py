"""Makes, watches and removes the services of a cluster on Kubernetes."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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

Progress = Callable[[str], None]
"""Is told a line of progress."""

_MADE_BY_US = f"{LABEL}made-by"
"""Annotation of a namespace that goes with the cluster."""

_NAME = "kubernetes.io/metadata.name"
"""Label that every namespace has."""

_START_TIMEOUT_S = 180.0
_REMOVE_TIMEOUT_S = 120.0
_DIAL_TIMEOUT_S = 1.0
_LOG_TAIL_LINES = 20
_CLAIM = Kind("v1", "PersistentVolumeClaim")
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
        await self._have_namespace(progress)
        anchor = await self._api.apply(anchor_manifest(self._options.cluster))
        count = 0
        for manifest in objects:
            kind = kind_of(manifest)
            owned = manifest if kind.is_cluster_wide else owned_by(anchor, manifest)
            if kind == SECRET:
                owned = await self._with_content(owned)
            if kind == SERVICE_ACCOUNT:
                owned = await with_pull_secret(self._api, self._options, owned)
            try:
                await self._api.apply(owned)
            except ClusterRefused as error:
                name = f"{kind.kind} {manifest['metadata']['name']}"
                raise FailedPrecondition(f"{name} cannot be applied: {error.message}") from error
            count += 1
        progress(f"{count} objects are applied in namespace {self._options.namespace}")
        try:
            await asyncio.wait_for(self._until_ready(progress), _START_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise StartFailed(
                f"the cluster is not ready after {_START_TIMEOUT_S:g} s{await self._problems()}"
            ) from None

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

    async def _have_namespace(self, progress: Progress) -> None:
        name = self._options.namespace
        try:
            await self._api.get(NAMESPACE, name)
        except NotInCluster:
            note = {"name": name, "annotations": {_MADE_BY_US: "skysail up"}}
            await self._api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": note})
            progress(f"namespace {name} is made")
        except NotAllowed:
            # Whoever may work in a namespace alone need not see it.
            return

    async def _until_ready(self, progress: Progress) -> None:
        """Return once every service has its pods ready, and one of management leads."""
        pods: dict[str, Object] = {}
        told: dict[str, str] = {}
        async for change in self._api.watch(POD, self._labels):
            if change.listed is not None:
                pods.clear()
            for pod in change.objects:
                name = pod["metadata"]["name"]
                if change.is_gone:
                    pods.pop(name, None)
                elif pod["metadata"]["labels"].get(COMPONENT) in _SERVICES:
                    pods[name] = pod
            for name, pod in pods.items():
                state = "ready" if _is_ready(pod) else problem_of(pod)
                if state and told.get(name) != state:
                    told[name] = state
                    progress(f"{name}: {state}")
            if await self._is_complete(pods):
                return

    async def _is_complete(self, pods: dict[str, Object]) -> bool:
        ready = [pod for pod in pods.values() if _is_ready(pod)]
        has_leader = any(LEADER in pod["metadata"]["labels"] for pod in ready)
        if len(ready) < len(pods) or not has_leader:
            return False
        for kind in ("Deployment", "StatefulSet"):
            for found in await self._api.list(Kind("apps/v1", kind), self._labels):
                component = found["metadata"]["labels"].get(COMPONENT)
                mine = [pod for pod in ready if pod["metadata"]["labels"][COMPONENT] == component]
                if component in _SERVICES and len(mine) < found["spec"].get("replicas", 1):
                    return False
        return True

    async def _problems(self) -> str:
        lines = []
        for pod in await self._api.list(POD, self._labels):
            if pod["metadata"]["labels"].get(COMPONENT) not in _SERVICES or _is_ready(pod):
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
        """Return how the cluster is reached from here; empty where it is not."""
        doors = await self.doors()

        async def endpoint(name: str) -> str:
            door = doors.get("management" if name == "management" else "frontend")
            if door is None or _PORTS[name] not in door.ports or not door.host:
                return ""
            found = f"{door.host}:{door.ports[_PORTS[name]]}"
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
        for kind in (SECRET, _CLAIM, PERSISTENT_VOLUME):
            try:
                left = await self._api.list(kind, self._labels)
            except NotAllowed:
                continue
            for each in left:
                # Those of other namespaces have the same labels.
                claim = each.get("spec", {}).get("claimRef", {})
                if not kind.is_cluster_wide or claim.get("namespace") == self._options.namespace:
                    await self._api.delete(kind, each["metadata"]["name"])

    async def _until_gone(self, anchor: str) -> None:
        async for change in self._api.watch(CONFIG_MAP, self._labels):
            names = {each["metadata"]["name"] for each in change.objects}
            if change.is_gone and anchor in names:
                break
            if change.listed is not None and anchor not in names:
                break
        # Those that were released belong to nobody; they were told to end.
        await self._until_none(POD, self._labels)

    async def _until_none(self, kind: Kind, chosen: Mapping[str, str]) -> None:
        left: set[str] = set()
        async for change in self._api.watch(kind, chosen):
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
        is_ours = _MADE_BY_US in found["metadata"].get("annotations", {})
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


def _is_ready(pod: Object) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

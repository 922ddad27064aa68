"""A Kubernetes cluster in memory: the API that the container manager uses, and its controllers."""

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from skysail_common.kubernetes.api import WatchEvent
from skysail_common.kubernetes.errors import ChangedMeanwhile, ClusterRefused, NotInCluster
from skysail_common.kubernetes.kinds import DEPLOYMENT, POD, Kind, Object, kind_of

_COST = "controller.kubernetes.io/pod-deletion-cost"


class FakeKubernetesApi:
    """A fake `KubernetesApi`; Deployments have their pods at once by default."""

    namespace = "skysail"
    context = "admin@test"
    server = "https://192.0.2.1:6443"

    def __init__(self) -> None:
        self.objects: dict[tuple[Kind, str], Object] = {}
        self.calls: list[tuple[str, str, str]] = []
        """Calls as verb, kind and name."""
        self.errors: dict[tuple[str, str], list[Exception]] = {}
        """Errors of the next calls, by verb and kind."""
        self.lost_answers: list[Exception] = []
        """Errors that the next patches raise after they took effect."""
        self.has_controllers = True
        """Whether controllers create, release and remove pods; `control` turns them on."""
        self.ends_pods = True
        """Whether a deleted pod that has started disappears at once."""
        self.log_lines: dict[tuple[str, str, bool], Sequence[bytes]] = {}
        """Log lines by pod, container and whether they are of the previous run."""
        self.log_errors: list[Exception] = []
        self.on_create: Callable[[Object], None] = lambda made: None
        self.num_watches = 0
        self.is_open = False
        self._watches: list[tuple[Kind, dict[str, str], asyncio.Queue[WatchEvent | Exception]]] = []
        self.applied: list[Object] = []
        """Every manifest that was applied."""
        self._versions = 0

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def get(self, kind: Kind, name: str) -> Object:
        await self._called("get", kind, name)
        return copy.deepcopy(self._found(kind, name))

    async def list(self, kind: Kind, labels: Mapping[str, str]) -> "list[Object]":
        await self._called("list", kind)
        return self._selected(kind, labels)

    async def create(self, manifest: Object) -> Object:
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        await self._called("create", kind, name)
        if (kind, name) in self.objects:
            raise ChangedMeanwhile(f"{name} already exists")
        made = self._put(manifest)
        self.on_create(made)
        return made

    async def apply(self, manifest: Object) -> Object:
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        await self._called("apply", kind, name)
        self.applied.append(copy.deepcopy(manifest))
        return self._put(_merged(self.objects.get((kind, name), {}), manifest))

    async def patch(self, kind: Kind, name: str, change: Any, subresource: str = "") -> Object:
        await self._called("patch", kind, f"{name}/{subresource}" if subresource else name)
        found = copy.deepcopy(self._found(kind, name))
        changed = _merged(found, change) if isinstance(change, Mapping) else _edited(found, change)
        made = self._put(changed)
        # Other tasks run before the answer arrives.
        await asyncio.sleep(0)
        if self.lost_answers:
            raise self.lost_answers.pop(0)
        return made

    async def delete(
        self,
        kind: Kind,
        name: str,
        *,
        grace_s: int | None = None,
        propagation: str = "Background",
        uid: str = "",
    ) -> None:
        await self._called("delete", kind, name)
        found = self.objects.get((kind, name))
        if found is not None and uid in ("", found["metadata"]["uid"]):
            self.remove(kind, name)

    async def watch(
        self, kind: Kind, labels: Mapping[str, str]
    ) -> AsyncGenerator[WatchEvent, None]:
        await self._called("watch", kind)
        changes: asyncio.Queue[WatchEvent | Exception] = asyncio.Queue()
        entry = (kind, dict(labels), changes)
        self._watches.append(entry)
        self.num_watches += 1
        try:
            yield WatchEvent(tuple(self._selected(kind, labels)))
            while True:
                change = await changes.get()
                if isinstance(change, Exception):
                    raise change
                yield change
        finally:
            self._watches.remove(entry)

    @asynccontextmanager
    async def log(
        self,
        pod: str,
        container: str,
        tail_lines: int,
        *,
        follow: bool = False,
        previous: bool = False,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._called("log", POD, pod)
        if self.log_errors:
            raise self.log_errors.pop(0)
        lines = self.log_lines.get((pod, container, previous), ())

        async def every() -> AsyncIterator[bytes]:
            for line in lines[-tail_lines:]:
                yield line

        yield every()

    def change(self, kind: Kind, name: str, **fields: Any) -> Object:
        """Change fields of an object as another client does, and return the new object."""
        return self._put({**copy.deepcopy(self._found(kind, name)), **fields})

    def add(self, manifest: Object) -> Object:
        """Add an object of another client."""
        return self._put(manifest)

    def remove(self, kind: Kind, name: str) -> None:
        """Delete an object and everything that it owns."""
        found = self._found(kind, name)
        # A pod without a node ends at once.
        if kind == POD and not self.ends_pods and "schedulingGates" not in found["spec"]:
            if "deletionTimestamp" not in found["metadata"]:
                metadata = {**found["metadata"], "deletionTimestamp": "2026-11-20T10:05:00Z"}
                self._put({**found, "metadata": metadata})
            return
        del self.objects[kind, name]
        self._notify(WatchEvent(None, copy.deepcopy(found), True))
        for (other, owned), each in list(self.objects.items()):
            owners = each["metadata"].get("ownerReferences", ())
            if (other, owned) in self.objects and any(
                owner["uid"] == found["metadata"]["uid"] for owner in owners
            ):
                self.remove(other, owned)
        self._control()

    def end(self, name: str) -> None:
        """Remove a deleted pod."""
        self.ends_pods, ends_pods = True, self.ends_pods
        self.remove(POD, name)
        self.ends_pods = ends_pods

    def send(self, change: WatchEvent) -> None:
        """Send an event to watchers without a change of objects."""
        self._notify(change)

    def break_watches(self, error: Exception) -> None:
        """Fail every watch with an error."""
        for _, _, changes in self._watches:
            changes.put_nowait(error)

    def names(self, kind: Kind) -> "list[str]":
        return [name for each, name in self.objects if each == kind]

    def called(self, verb: str, kind: Kind) -> "list[str]":
        """Return the names of all calls of a verb and kind."""
        return [name for each, of, name in self.calls if (each, of) == (verb, kind.kind)]

    def control(self) -> None:
        """Run the controllers of Deployments."""
        self.has_controllers = True
        self._control()

    async def _called(self, verb: str, kind: Kind, name: str = "") -> None:
        self.calls.append((verb, kind.kind, name))
        await asyncio.sleep(0)
        if errors := self.errors.get((verb, kind.kind)):
            raise errors.pop(0)

    def _found(self, kind: Kind, name: str) -> Object:
        if (kind, name) not in self.objects:
            raise NotInCluster(f"{kind.kind} {name!r} not found")
        return self.objects[kind, name]

    def _selected(self, kind: Kind, labels: Mapping[str, str]) -> "list[Object]":
        return [
            copy.deepcopy(found)
            for (each, _), found in self.objects.items()
            if each == kind and _has(found, labels)
        ]

    def _put(self, manifest: Object) -> Object:
        self._versions += 1
        made = copy.deepcopy(manifest)
        metadata = made["metadata"]
        metadata.setdefault("uid", f"uid-{self._versions}")
        metadata["resourceVersion"] = str(self._versions)
        self.objects[kind_of(made), metadata["name"]] = made
        self._notify(WatchEvent(None, copy.deepcopy(made)))
        result = copy.deepcopy(made)
        self._control()
        return result

    def _notify(self, change: WatchEvent) -> None:
        assert change.changed is not None
        for kind, labels, changes in self._watches:
            if kind == kind_of(change.changed) and _has(change.changed, labels):
                changes.put_nowait(change)

    def _control(self) -> None:
        if not self.has_controllers:
            return
        for (kind, name), found in list(self.objects.items()):
            if kind == DEPLOYMENT and (kind, name) in self.objects:
                self._control_pods(found)

    def _control_pods(self, deployment: Object) -> None:
        wanted = deployment["spec"]["selector"]["matchLabels"]
        uid = deployment["metadata"]["uid"]
        counted = []
        for (kind, name), pod in list(self.objects.items()):
            owners = pod["metadata"].get("ownerReferences", ())
            if kind != POD or not any(owner["uid"] == uid for owner in owners):
                continue
            if not _has(pod, wanted):
                metadata = {**pod["metadata"], "ownerReferences": []}
                self.objects[kind, name] = {**pod, "metadata": metadata}
                self._notify(WatchEvent(None, copy.deepcopy(self.objects[kind, name])))
            elif "deletionTimestamp" not in pod["metadata"]:
                counted.append(pod)
        surplus = len(counted) - deployment["spec"]["replicas"]
        if surplus > 0:
            counted.sort(key=lambda pod: int(pod["metadata"]["annotations"][_COST]))
            self.remove(POD, counted[0]["metadata"]["name"])
        elif surplus < 0:
            self._make_pod(deployment)

    def _make_pod(self, deployment: Object) -> None:
        template = copy.deepcopy(deployment["spec"]["template"])
        owner = {"kind": "ReplicaSet", "uid": deployment["metadata"]["uid"]}
        metadata = {
            **template["metadata"],
            "name": f"{deployment['metadata']['name']}-{self._versions:05}",
            "ownerReferences": [owner],
        }
        status = {"phase": "Pending"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}
        self._put({**pod, "spec": template["spec"]})


def _has(found: Object, labels: Mapping[str, str]) -> bool:
    own = found["metadata"].get("labels", {})
    return all(own.get(name) == value for name, value in labels.items())


def _merged(found: Any, change: Any) -> Any:
    """Apply a merge patch (RFC 7396)."""
    if not isinstance(change, Mapping):
        return copy.deepcopy(change)
    merged = dict(found) if isinstance(found, Mapping) else {}
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _edited(found: Object, steps: Sequence[Mapping[str, Any]]) -> Object:
    """Apply a JSON patch (RFC 6902) of `test`, `add` and `remove` of fields."""
    for step in steps:
        *way, last = (
            part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]
        )
        place = found
        for part in way:
            place = place[part]
        if step["op"] == "add":
            place[last] = copy.deepcopy(step["value"])
        elif last not in place or (step["op"] == "test" and place[last] != step["value"]):
            raise ClusterRefused("the server rejected our request due to an error in our request")
        elif step["op"] == "remove":
            del place[last]
    return found

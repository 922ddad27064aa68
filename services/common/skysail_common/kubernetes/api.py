"""Requests to a Kubernetes API server; objects are plain dictionaries."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from skysail_common.kubernetes.connection import TIMEOUT_S, KubernetesConnection
from skysail_common.kubernetes.errors import ChangedMeanwhile, HistoryGone, NotInCluster, refusal
from skysail_common.kubernetes.kinds import POD, Kind, Object, kind_of, selector

FIELD_MANAGER = "skysail"
"""Owner of the fields that Skysail applies."""

_WATCH_S = 60
"""Seconds after which the server ends a watch, which then resumes. The same time bounds the detection
of a lost server."""
_WATCH_SLACK_S = 15.0


@dataclass(frozen=True)
class WatchEvent:
    """One event of a watch: all objects, or one changed object."""

    listed: tuple[Object, ...] | None
    """All objects, at the beginning and after a gap in the history; None for a change."""
    changed: Object | None = None
    """Present state of an object, or the last state of a deleted one."""
    is_gone: bool = False
    """True if the object was deleted."""

    @property
    def objects(self) -> tuple[Object, ...]:
        """The objects of this event."""
        return self.listed or () if self.changed is None else (self.changed,)


class KubernetesApi:
    """A Kubernetes cluster, seen from one namespace."""

    def __init__(
        self, config_file: str = "", context: str = "", proxy_addr: str = "", namespace: str = ""
    ) -> None:
        """Store the arguments (see `KubernetesConnection`); `open` reads the configuration."""
        self._connection = KubernetesConnection(config_file, context, proxy_addr, namespace)

    @property
    def namespace(self) -> str:
        """The namespace; known after `open`."""
        return self._connection.namespace

    @property
    def context(self) -> str:
        """The context of the configuration file, or empty without a file; known after `open`."""
        return self._connection.context

    @property
    def server(self) -> str:
        """Address of the API server; known after `open`."""
        return self._connection.server

    async def open(self) -> None:
        """Read the configuration of the cluster without sending a request.

        Raises:
            FailedPrecondition: no configuration exists, or the file is unusable.
        """
        await self._connection.open()

    async def close(self) -> None:
        """Close the connections to the cluster."""
        await self._connection.close()

    async def get(self, kind: Kind, name: str) -> Object:
        """Return an object.

        Raises:
            NotInCluster: no object has this name.
            NotAllowed: a role lacks a rule.
            ContainerManagerUnavailable: the cluster does not answer.
        """
        return await self._connection.send("GET", kind.path(self.namespace, name))

    async def list(self, kind: Kind, labels: Mapping[str, str]) -> list[Object]:
        """Return the objects with these labels; errors as of `get`."""
        return (await self._list(kind, labels))["items"]  # type: ignore[no-any-return]

    async def _list(self, kind: Kind, labels: Mapping[str, str]) -> Object:
        query = {"labelSelector": selector(labels)}
        found = await self._connection.send("GET", kind.path(self.namespace), query)
        for item in found["items"]:
            # A list omits the fields that are equal for all items.
            item.update(apiVersion=kind.api_version, kind=kind.kind)
        return found

    async def create(self, manifest: Object) -> Object:
        """Create an object and return it.

        Raises:
            ChangedMeanwhile: an object of this name exists.
            ClusterRefused: Kubernetes refuses the object.
        """
        path = kind_of(manifest).path(self.namespace)
        return await self._connection.send("POST", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def apply(self, manifest: Object) -> Object:
        """Create or change an object by server-side apply, and return it.

        The object gets all fields of the manifest. Fields of other managers stay unless the manifest
        contains them.

        Raises:
            ClusterRefused: Kubernetes refuses the object.
        """
        path = kind_of(manifest).path(self.namespace, manifest["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._connection.send(
            "PATCH", path, query, manifest, "application/apply-patch+yaml"
        )

    async def patch(
        self,
        kind: Kind,
        name: str,
        change: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        subresource: str = "",
    ) -> Object:
        """Change an object and return it.

        Args:
            kind: Kind of the object.
            name: Name of the object.
            change: Fields to merge, or the steps of a JSON patch.
            subresource: A subresource such as `scale`; the object itself if empty.

        Raises:
            ChangedMeanwhile: a test of the JSON patch fails, or the version differs.
            NotInCluster: the object was deleted.
        """
        form = "merge" if isinstance(change, Mapping) else "json"
        path = kind.path(self.namespace, name, subresource)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._connection.send(
            "PATCH", path, query, change, f"application/{form}-patch+json"
        )

    async def replace(self, manifest: Object) -> Object:
        """Replace the version of an object that the manifest names, and return the new object.

        Raises:
            ChangedMeanwhile: the object has changed since that version.
        """
        path = kind_of(manifest).path(self.namespace, manifest["metadata"]["name"])
        return await self._connection.send("PUT", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def delete(
        self,
        kind: Kind,
        name: str,
        *,
        grace_s: int | None = None,
        propagation: str = "Background",
        uid: str = "",
    ) -> None:
        """Delete an object; do nothing if it was deleted before.

        Args:
            kind: Kind of the object.
            name: Name of the object.
            grace_s: Seconds that a pod has to end; None for the time of the pod.
            propagation: `Background`, or `Foreground` to delete dependents first.
            uid: Delete only the object with this uid; any if empty.
        """
        body: Object = {"propagationPolicy": propagation}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self._connection.send("DELETE", kind.path(self.namespace, name), body=body)
        except NotInCluster:
            return
        except ChangedMeanwhile:
            # The object with this uid is gone: another object has its name.
            if not uid:
                raise

    async def watch(
        self, kind: Kind, labels: Mapping[str, str]
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield all objects with these labels, then each change.

        The watch resumes after the server ends it, and lists all objects again if the server lost the
        history. A caller that stops early closes the generator (`aclosing`); the connection would
        otherwise stay open for a while.

        Raises:
            ContainerManagerUnavailable: the cluster does not answer, or the connection broke.
            NotAllowed: a role lacks a rule.
        """
        version = ""
        while True:
            if not version:
                found = await self._list(kind, labels)
                version = found["metadata"]["resourceVersion"]
                yield WatchEvent(tuple(found["items"]))
            try:
                async with aclosing(self._events(kind, labels, version)) as events:
                    async for event in events:
                        version = event["object"]["metadata"]["resourceVersion"]
                        if event["type"] != "BOOKMARK":
                            yield WatchEvent(None, event["object"], event["type"] == "DELETED")
            except HistoryGone:
                version = ""

    async def _events(
        self, kind: Kind, labels: Mapping[str, str], version: str
    ) -> AsyncGenerator[Object, None]:
        query = {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version,
            "labelSelector": selector(labels), "timeoutSeconds": str(_WATCH_S),
        }  # fmt: skip
        path = kind.path(self.namespace)
        async with self._connection.streamed(path, query, _WATCH_S + _WATCH_SLACK_S) as lines:
            async for line in lines:
                event: Object = json.loads(line)
                if event["type"] == "ERROR":
                    raise refusal(event["object"]["code"], event["object"].get("message", ""))
                yield event

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
        """Open the tail of a container's log for the block.

        Args:
            pod: Name of the pod.
            container: Name of the container in the pod.
            tail_lines: Largest number of lines.
            follow: Whether to wait for new lines until the container ends.
            previous: Whether to read the log of the previous run of the container.

        Raises:
            NotInCluster: the pod does not exist.
            ClusterRefused: the container has no log.
        """
        query = {"container": container, "tailLines": str(tail_lines)}
        query |= {"follow": "true"} if follow else {}
        query |= {"previous": "true"} if previous else {}
        path = POD.path(self.namespace, pod, "log")
        async with self._connection.streamed(path, query, None if follow else TIMEOUT_S) as lines:
            yield lines

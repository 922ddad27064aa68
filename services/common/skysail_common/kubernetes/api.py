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
"""Whose the fields are that we apply."""

_WATCH_S = 60
"""Seconds after which the server ends a watch, which is then resumed; a server that is gone is noticed
as soon."""
_WATCH_SLACK_S = 15.0


@dataclass(frozen=True)
class WatchEvent:
    """One step of a watch."""

    listed: tuple[Object, ...] | None
    """All objects, at the beginning and wherever what happened meanwhile is not known."""
    changed: Object | None = None
    """An object as it is now, or as it was last."""
    is_gone: bool = False
    """True where it is no more."""

    @property
    def objects(self) -> tuple[Object, ...]:
        """What this step tells of."""
        return self.listed or () if self.changed is None else (self.changed,)


class KubernetesApi:
    """A Kubernetes cluster, seen from one namespace."""

    def __init__(
        self, config_file: str = "", context: str = "", proxy_addr: str = "", namespace: str = ""
    ) -> None:
        """Does nothing yet; for the arguments see `KubernetesConnection`."""
        self._connection = KubernetesConnection(config_file, context, proxy_addr, namespace)

    @property
    def namespace(self) -> str:
        """The namespace; known once it is open."""
        return self._connection.namespace

    @property
    def context(self) -> str:
        """The context of the configuration file; empty if none is used. Known once it is open."""
        return self._connection.context

    @property
    def server(self) -> str:
        """Address of the API server; known once it is open."""
        return self._connection.server

    async def open(self) -> None:
        """Read how the cluster is reached; nothing is sent.

        Raises:
            FailedPrecondition: that is nowhere said, or the file is not usable.
        """
        await self._connection.open()

    async def close(self) -> None:
        """Let go of the cluster."""
        await self._connection.close()

    async def get(self, kind: Kind, name: str) -> Object:
        """Return an object.

        Raises:
            NotInCluster: there is none of this name.
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
            # A list leaves out what is the same for all.
            item.update(apiVersion=kind.api_version, kind=kind.kind)
        return found

    async def create(self, manifest: Object) -> Object:
        """Make an object and return it.

        Raises:
            ChangedMeanwhile: there is one of this name.
            ClusterRefused: it cannot be made.
        """
        path = kind_of(manifest).path(self.namespace)
        return await self._connection.send("POST", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def apply(self, manifest: Object) -> Object:
        """Make an object or change it so that it has all that the manifest says, and return it.

        By server-side apply: fields that others set stay, ours are ours again.

        Raises:
            ClusterRefused: it cannot be.
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
            kind: What it is.
            name: Its name.
            change: Fields to merge, or the steps of a JSON patch.
            subresource: Such as `scale`.

        Raises:
            ChangedMeanwhile: it is not as the change supposes.
            NotInCluster: it is gone.
        """
        form = "merge" if isinstance(change, Mapping) else "json"
        path = kind.path(self.namespace, name, subresource)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._connection.send(
            "PATCH", path, query, change, f"application/{form}-patch+json"
        )

    async def replace(self, manifest: Object) -> Object:
        """Put an object in the place of the one whose version it names, and return it.

        Raises:
            ChangedMeanwhile: it was changed since.
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
        """Delete an object; one that is gone need not be.

        Args:
            kind: What it is.
            name: Its name.
            grace_s: Seconds that a pod gets to end, where its own are not right.
            propagation: `Background`, or `Foreground`: what it owns goes first.
            uid: The very one that is meant; any if empty.
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
            # Another object has this name now.
            if not uid:
                raise

    async def watch(
        self, kind: Kind, labels: Mapping[str, str]
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield all objects with these labels, then each that changes.

        Whoever stops before it ends closes it (`aclosing`), or the connection stays for a while.
        Resumes where the server ends it; lists them again where it no longer knows what happened.

        Raises:
            ContainerManagerUnavailable: the cluster does not answer, or went away.
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
        """Open the end of a container's log inside the block; if `follow`, with new lines.

        Args:
            pod: Its pod.
            container: Its name there.
            tail_lines: Lines at most.
            follow: Whether to go on until the container ends.
            previous: Whether that of the run before the present one is meant.

        Raises:
            NotInCluster: there is no such pod.
            ClusterRefused: it has no log.
        """
        query = {"container": container, "tailLines": str(tail_lines)}
        query |= {"follow": "true"} if follow else {}
        query |= {"previous": "true"} if previous else {}
        path = POD.path(self.namespace, pod, "log")
        async with self._connection.streamed(path, query, None if follow else TIMEOUT_S) as lines:
            yield lines

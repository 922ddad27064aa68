"""The one file that knows the client of Kubernetes: objects are plain dictionaries, errors are ours.

The client's own models would need a class for every kind; what is sent and what comes is JSON anyway.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.rest import RESTResponse

from skysail_common.errors import ContainerManagerUnavailable, FailedPrecondition, SkysailError

Object = dict[str, Any]
"""An object of Kubernetes, as its JSON."""

FIELD_MANAGER = "skysail"
"""Whose the fields are that we apply."""

_TIMEOUT_S = 30.0
_WATCH_S = 60
"""Seconds after which the server ends a watch, which is then resumed; a server that is gone is noticed
as soon."""
_WATCH_SLACK_S = 15.0
_MAX_LINE_BYTES = 1024 * 1024
_CLUSTER_WIDE = frozenset(
    {"ClusterRole", "ClusterRoleBinding", "Namespace", "PersistentVolume", "StorageClass"}
)
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group '
    r'"(?P<group>[^"]*)"(?: in the namespace "(?P<namespace>[^"]+)")?'
)


class ClusterRefused(SkysailError):
    """Kubernetes cannot do what it was asked to; says why."""


class NotInCluster(ClusterRefused):
    """Kubernetes has no such object."""


class ChangedMeanwhile(ClusterRefused):
    """An object was changed, or made, by another first."""


class HistoryGone(ClusterRefused):
    """What changed since an older version of a list is no longer known."""


class NotAllowed(FailedPrecondition):
    """A role of Kubernetes lacks a rule; names the verb and the resource."""


@dataclass(frozen=True)
class Kind:
    """What objects are, such as `Kind("apps/v1", "Deployment")`."""

    api_version: str
    kind: str

    @property
    def is_cluster_wide(self) -> bool:
        """True for what is in no namespace."""
        return self.kind in _CLUSTER_WIDE

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Return the path of one object, or of all."""
        root = "/api" if self.api_version == "v1" else "/apis"
        parts = [root, self.api_version]
        if not self.is_cluster_wide:
            parts += ["namespaces", quote(namespace)]
        parts += [self._plural(), *map(quote, filter(None, (name, subresource)))]
        return "/".join(parts)

    def _plural(self) -> str:
        name = self.kind.lower()
        if name.endswith("y"):
            return f"{name[:-1]}ies"
        return f"{name}es" if name.endswith("s") else f"{name}s"


CONFIG_MAP = Kind("v1", "ConfigMap")
DEPLOYMENT = Kind("apps/v1", "Deployment")
DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget")
LEASE = Kind("coordination.k8s.io/v1", "Lease")
NAMESPACE = Kind("v1", "Namespace")
PERSISTENT_VOLUME = Kind("v1", "PersistentVolume")
POD = Kind("v1", "Pod")
SECRET = Kind("v1", "Secret")
SERVICE = Kind("v1", "Service")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount")


def kind_of(manifest: Object) -> Kind:
    """Return what a manifest is."""
    return Kind(manifest["apiVersion"], manifest["kind"])


def selector(labels: Mapping[str, str]) -> str:
    """Return what selects objects by their labels; an empty value stands for any."""
    return ",".join(f"{name}={value}" if value else name for name, value in labels.items())


@dataclass(frozen=True)
class Change:
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
        """Does nothing yet; `open` finds the cluster.

        Args:
            config_file: File that says how it is reached; if empty, the pod's own service account,
                or ~/.kube/config.
            context: Context of that file; its current one if empty.
            proxy_addr: Where `kubectl proxy` listens, as host:port; then no file is used.
            namespace: The namespace; if empty, that of the service account or the context.
        """
        self.namespace = namespace
        self._config_file = config_file
        self._context = context
        self._proxy_addr = proxy_addr
        self._client: client.ApiClient | None = None

    async def open(self) -> None:
        """Read how the cluster is reached; nothing is sent.

        Raises:
            FailedPrecondition: that is nowhere said, or the file is not usable.
        """
        await self.close()
        configuration = client.Configuration()
        # Its default is 4.
        configuration.connection_pool_maxsize = 64
        try:
            namespace = await self._configure(configuration)
        except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise FailedPrecondition(
                f"no Kubernetes cluster is known here: {error}; say by KUBECONFIG, a context or the "
                "address of 'kubectl proxy' how it is reached"
            ) from error
        self.namespace = self.namespace or namespace
        self._client = client.ApiClient(configuration)
        # It has read by now the keys that were written to files, which else stay as long as we do.
        config.kube_config._cleanup_temp_files()

    async def _configure(self, configuration: client.Configuration) -> str:
        """Fill the configuration and return the namespace that goes with it."""
        if self._proxy_addr:
            configuration.host = f"http://{self._proxy_addr.removeprefix('http://')}"
            return "default"
        if not self._config_file and not self._context:
            try:
                config.load_incluster_config(configuration)
            except config.ConfigException:
                pass
            else:
                return _NAMESPACE_FILE.read_text().strip()
        await config.load_kube_config(
            self._config_file or None, self._context or None, configuration, persist_config=False
        )
        contexts, current = config.list_kube_config_contexts(self._config_file or None)
        chosen = [each for each in contexts if each["name"] == self._context] or [current]
        return str(chosen[0]["context"].get("namespace", "default"))

    async def close(self) -> None:
        """Let go of the cluster."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def get(self, kind: Kind, name: str) -> Object:
        """Return an object.

        Raises:
            NotInCluster: there is none of this name.
            NotAllowed: a role lacks a rule.
            ContainerManagerUnavailable: the cluster does not answer.
        """
        return await self._send("GET", kind.path(self.namespace, name))

    async def list(self, kind: Kind, labels: Mapping[str, str]) -> list[Object]:
        """Return the objects with these labels; errors as of `get`."""
        return (await self._list(kind, labels))["items"]  # type: ignore[no-any-return]

    async def _list(self, kind: Kind, labels: Mapping[str, str]) -> Object:
        query = {"labelSelector": selector(labels)}
        found = await self._send("GET", kind.path(self.namespace), query)
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
        return await self._send("POST", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def apply(self, manifest: Object) -> Object:
        """Make an object or change it so that it has all that the manifest says, and return it.

        By server-side apply: fields that others set stay, ours are ours again.

        Raises:
            ClusterRefused: it cannot be.
        """
        path = kind_of(manifest).path(self.namespace, manifest["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._send("PATCH", path, query, manifest, "application/apply-patch+yaml")

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
        return await self._send("PATCH", path, query, change, f"application/{form}-patch+json")

    async def replace(self, manifest: Object) -> Object:
        """Put an object in the place of the one whose version it names, and return it.

        Raises:
            ChangedMeanwhile: it was changed since.
        """
        path = kind_of(manifest).path(self.namespace, manifest["metadata"]["name"])
        return await self._send("PUT", path, {"fieldManager": FIELD_MANAGER}, manifest)

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
            await self._send("DELETE", kind.path(self.namespace, name), body=body)
        except NotInCluster:
            return
        except ChangedMeanwhile:
            # Another has its name now.
            if not uid:
                raise

    async def watch(self, kind: Kind, labels: Mapping[str, str]) -> AsyncIterator[Change]:
        """Yield all objects with these labels, then each that changes.

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
                yield Change(tuple(found["items"]))
            try:
                async for event in self._events(kind, labels, version):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield Change(None, event["object"], event["type"] == "DELETED")
            except HistoryGone:
                version = ""

    async def _events(
        self, kind: Kind, labels: Mapping[str, str], version: str
    ) -> AsyncIterator[Object]:
        query = {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version,
            "labelSelector": selector(labels), "timeoutSeconds": str(_WATCH_S),
        }  # fmt: skip
        path = kind.path(self.namespace)
        async with self._streamed(path, query, _WATCH_S + _WATCH_SLACK_S) as lines:
            async for line in lines:
                event: Object = json.loads(line)
                if event["type"] == "ERROR":
                    raise _refusal(event["object"]["code"], event["object"].get("message", ""))
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
        """Have the last lines of a container's log inside the block and, if `follow`, what is added.

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
        async with self._streamed(path, query, None if follow else _TIMEOUT_S) as lines:
            yield lines

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        with self._translated():
            response = await self._begun(method, path, query, body, content_type, timeout)
            content = await response.read()
        if response.status >= 400:
            raise _refusal(response.status, _message(content))
        return json.loads(content)  # type: ignore[no-any-return]

    @asynccontextmanager
    async def _streamed(
        self, path: str, query: Mapping[str, str], silence_s: float | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT_S, sock_read=silence_s)
        with self._translated():
            response = await self._begun("GET", path, query, None, "application/json", timeout)
        try:
            if response.status >= 400:
                with self._translated():
                    content = await response.read()
                raise _refusal(response.status, _message(content))
            yield self._lines(response)
        finally:
            # Not released: what is still to come is of no interest.
            response.response.close()

    async def _lines(self, response: RESTResponse) -> AsyncIterator[bytes]:
        pending = b""
        content = response.response.content
        while True:
            with self._translated():
                chunk = await content.readany()
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                yield line
            if len(pending) > _MAX_LINE_BYTES:
                yield pending
                pending = b""
        if pending:
            yield pending

    async def _begun(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> RESTResponse:
        for is_last in (False, True):
            if self._client is None:
                await self.open()
            assert self._client is not None
            _, url, headers, sent, _ = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(
                method, url, headers, sent, _request_timeout=timeout
            )
            if response.status != 401 or is_last:
                break
            # The token of a configuration file may have run out; it is read anew.
            response.response.close()
            await self.open()
        return response

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            where = f" at {self._client.configuration.host}" if self._client else ""
            raise ContainerManagerUnavailable(
                f"Kubernetes does not answer{where}: {error or type(error).__name__}"
            ) from error


def _message(content: bytes) -> str:
    try:
        found = json.loads(content)
        return str(found["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace").strip()


def _refusal(status: int, message: str) -> SkysailError:
    if status == 403 and (found := _FORBIDDEN.search(message)):
        resource = ".".join(filter(None, (found["resource"], found["group"])))
        where = f" in namespace {found['namespace']!r}" if found["namespace"] else ""
        return NotAllowed(
            f"{found['user']!r} may not {found['verb']} {resource}{where}: a role must allow it"
        )
    if status == 401:
        return NotAllowed(f"Kubernetes does not know who asks: {message}")
    classes: dict[int, type[SkysailError]] = {
        404: NotInCluster,
        409: ChangedMeanwhile,
        410: HistoryGone,
        429: ContainerManagerUnavailable,
    }
    if status >= 500:
        return ContainerManagerUnavailable(f"Kubernetes cannot answer now: {message}")
    return classes.get(status, ClusterRefused)(message)

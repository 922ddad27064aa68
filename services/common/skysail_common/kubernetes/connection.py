"""The connection to a Kubernetes API server; the only module that imports the Kubernetes client.

The module uses the client's configuration and authentication, but not its models. Models would need a
class for each kind, although requests and responses are JSON.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubernetes.aio import client, config
from kubernetes.aio.client.rest import RESTResponse

from skysail_common.errors import ContainerManagerUnavailable, FailedPrecondition
from skysail_common.kubernetes.errors import message_of, refusal
from skysail_common.kubernetes.kinds import Object

TIMEOUT_S = 30.0
"""Longest time until the answer to a call."""

_MAX_CONNECTIONS = 64
_MAX_LINE_BYTES = 1024 * 1024
_UNUSABLE = (config.ConfigException, yaml.YAMLError, OSError, ValueError, KeyError, TypeError)
"""Errors that an unusable configuration file may raise."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KubernetesConnection:
    """A Kubernetes cluster over HTTP."""

    def __init__(
        self, config_file: str = "", context: str = "", proxy_addr: str = "", namespace: str = ""
    ) -> None:
        """Store the arguments; `open` reads the configuration.

        Args:
            config_file: Configuration file; if empty, the service account of the pod, or
                ~/.kube/config.
            context: Context of the file; its current context if empty.
            proxy_addr: Address of `kubectl proxy`, as host:port, which replaces the file.
            namespace: The namespace; if empty, that of the service account or the context.
        """
        self.namespace = namespace
        self.context = context
        """Context of the file; after `open` the effective context, or empty without a file."""
        self._config_file = config_file
        self._context = context
        self._proxy_addr = proxy_addr
        self._client: client.ApiClient | None = None
        self._earlier: client.ApiClient | None = None
        """The previous client, whose calls may still be in flight."""
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Read the configuration of the cluster without sending a request.

        Raises:
            FailedPrecondition: no configuration exists, or the file is unusable.
        """
        configuration = client.Configuration()
        # The client keeps 4 connections by default.
        configuration.connection_pool_maxsize = _MAX_CONNECTIONS
        try:
            namespace = await self._configure(configuration)
        except _UNUSABLE as error:
            raise FailedPrecondition(
                f"no Kubernetes configuration found: {error}; set KUBECONFIG, or give a context or "
                "the address of 'kubectl proxy'"
            ) from error
        self.namespace = self.namespace or namespace
        outdated, self._earlier = self._earlier, self._client
        self._client = client.ApiClient(configuration)
        if outdated is not None:
            await outdated.close()
        # The client has read the keys from temporary files, which would otherwise stay until exit.
        config.kube_config._cleanup_temp_files()

    async def _configure(self, configuration: client.Configuration) -> str:
        """Fill the configuration and return its namespace."""
        if self._proxy_addr:
            self.context = ""
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
        self.context = str(chosen[0]["name"])
        return str(chosen[0]["context"].get("namespace", "default"))

    async def close(self) -> None:
        """Close the connections to the cluster."""
        for each in (self._client, self._earlier):
            if each is not None:
                await each.close()
        self._client = self._earlier = None

    async def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        """Send a request and return the answer of the cluster.

        Raises:
            ClusterRefused: the cluster refuses; the subclass is the cause.
            NotAllowed: a role lacks a rule.
            ContainerManagerUnavailable: the cluster does not answer.
        """
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        with self._translated():
            response = await self._begun(method, path, query, body, content_type, timeout)
            content = await response.read()
        if response.status >= 400:
            raise refusal(response.status, message_of(content))
        try:
            return json.loads(content)  # type: ignore[no-any-return]
        except ValueError:
            raise ContainerManagerUnavailable(
                f"the server{self._where} is not a Kubernetes API server"
            ) from None

    @asynccontextmanager
    async def streamed(
        self, path: str, query: Mapping[str, str], silence_s: float | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a stream of lines for the block; errors are those of `send`.

        Args:
            path: Path of the request.
            query: Parameters of the request.
            silence_s: Longest time between two lines; None for no bound.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=silence_s)
        with self._translated():
            response = await self._begun("GET", path, query, None, "application/json", timeout)
        try:
            if response.status >= 400:
                with self._translated():
                    content = await response.read()
                raise refusal(response.status, message_of(content))
            yield self._lines(response)
        finally:
            # The connection is closed instead of reused, because the rest of the stream is unread.
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
        used = await self._current(None)
        for is_last in (False, True):
            _, url, headers, sent, _ = await used.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await used.call_api(method, url, headers, sent, _request_timeout=timeout)
            if response.status != 401 or is_last:
                break
            # The token of a configuration file may have expired, so that the file is read again.
            response.response.close()
            used = await self._current(used)
        return response

    async def _current(self, refused: client.ApiClient | None) -> client.ApiClient:
        """Return the client; make a new one if the server refused it or none exists."""
        async with self._opening:
            # A concurrent call may have made a new client while this one waited for the lock.
            if self._client is refused:
                await self.open()
            assert self._client is not None
            return self._client

    @property
    def server(self) -> str:
        """Address of the API server; empty before `open`."""
        return str(self._client.configuration.host) if self._client else ""

    @property
    def _where(self) -> str:
        return f" at {self.server}" if self._client else ""

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise ContainerManagerUnavailable(
                f"Kubernetes does not answer{self._where}: {str(error) or type(error).__name__}"
            ) from error

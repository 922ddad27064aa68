"""The connection to a Kubernetes API server; the only user of the client of Kubernetes.

Of the client its configuration and its authentication are used. Its models would need a class for every
kind, and what is sent and what comes is JSON anyway.
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
"""Longest time until a call is answered."""

_MAX_CONNECTIONS = 64
_MAX_LINE_BYTES = 1024 * 1024
_UNUSABLE = (config.ConfigException, yaml.YAMLError, OSError, ValueError, KeyError, TypeError)
"""What a file that does not say how a cluster is reached may raise."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KubernetesConnection:
    """A Kubernetes cluster over HTTP."""

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
        self.context = context
        """Context of the file; once it is open the one that is used, empty if no file is."""
        self._config_file = config_file
        self._context = context
        self._proxy_addr = proxy_addr
        self._client: client.ApiClient | None = None
        self._earlier: client.ApiClient | None = None
        """The one before it, whose calls may still be under way."""
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Read how the cluster is reached; nothing is sent.

        Raises:
            FailedPrecondition: that is nowhere said, or the file is not usable.
        """
        configuration = client.Configuration()
        # The client keeps 4 connections by default.
        configuration.connection_pool_maxsize = _MAX_CONNECTIONS
        try:
            namespace = await self._configure(configuration)
        except _UNUSABLE as error:
            raise FailedPrecondition(
                f"no Kubernetes cluster is known here: {error}; say by KUBECONFIG, a context or the "
                "address of 'kubectl proxy' how it is reached"
            ) from error
        self.namespace = self.namespace or namespace
        outdated, self._earlier = self._earlier, self._client
        self._client = client.ApiClient(configuration)
        if outdated is not None:
            await outdated.close()
        # It has read by now the keys that were written to files, which else stay as long as we do.
        config.kube_config._cleanup_temp_files()

    async def _configure(self, configuration: client.Configuration) -> str:
        """Fill the configuration and return the namespace that goes with it."""
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
        """Let go of the cluster."""
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
        """Return the answer of the cluster.

        Raises:
            ClusterRefused: it refuses; which class of it says why.
            NotAllowed: a role lacks a rule.
            ContainerManagerUnavailable: it does not answer.
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
                f"what answers{self._where} is not Kubernetes"
            ) from None

    @asynccontextmanager
    async def streamed(
        self, path: str, query: Mapping[str, str], silence_s: float | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the lines that the cluster sends inside the block; errors are those of `send`.

        Args:
            path: What is asked for.
            query: How.
            silence_s: Longest time between two of them; None where any is right.
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
            # The token of a configuration file may have run out; it is read anew.
            response.response.close()
            used = await self._current(used)
        return response

    async def _current(self, refused: client.ApiClient | None) -> client.ApiClient:
        """Return the client; a new one if it was refused, or does not exist."""
        async with self._opening:
            # Another call may have made a new client in the meantime.
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

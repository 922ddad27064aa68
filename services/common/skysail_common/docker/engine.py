"""Asynchronous access to a Docker engine; the only module that imports the Docker client.

The client blocks, so that its calls run in threads. Its errors become `SkysailError` classes.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import docker
import docker.errors
import requests
import urllib3.exceptions
from docker.types import CancellableStream

from skysail_common.errors import ContainerManagerUnavailable, SkysailError
from skysail_common.process.threads import in_thread

_TIMEOUT_S = 60
_MAX_CONNECTIONS = 64

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class EngineRefused(SkysailError):
    """The Docker engine refuses a request; the message is the cause."""


class NotOnEngine(EngineRefused):
    """The Docker engine has no such container or image."""


class DockerEngine:
    """A Docker engine."""

    def __init__(self, host: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Store the arguments; the first call connects.

        Args:
            host: Address of the engine, such as `unix:///var/run/docker.sock`.
            timeout_s: Longest silence of the engine during a call.
        """
        self._host = host
        self._timeout_s = timeout_s
        self._client: docker.APIClient | None = None
        self._last = threading.local()
        """The last response of each thread."""

    def _connected(self) -> docker.APIClient:
        if self._client is None:
            # `auto` selects the API version that the engine supports.
            self._client = docker.APIClient(
                self._host,
                version="auto",
                timeout=int(self._timeout_s),
                max_pool_size=_MAX_CONNECTIONS,
            )
            self._client.hooks["response"].append(self._note)
        return self._client

    def _note(self, response: requests.Response, **_: object) -> None:
        self._last.response = response

    async def do(self, work: Callable[[docker.APIClient], ResultT]) -> ResultT:
        """Call a function with the client, in a thread, and return its result.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
            NotOnEngine: a named container or image does not exist.
            EngineRefused: the engine refuses the call.
        """

        def translated() -> ResultT:
            with self._translated():
                return work(self._connected())

        return await in_thread(translated)

    @asynccontextmanager
    async def stream(
        self, begin: Callable[[docker.APIClient], Iterable[ItemT]]
    ) -> AsyncIterator[AsyncIterator[ItemT]]:
        """Open a stream of items from the engine, which ends with the block.

        Errors are those of `do`; the loss of the engine ends the stream without an error.
        """
        responses: list[requests.Response] = []

        def begun(client: docker.APIClient) -> Iterator[ItemT]:
            # The ping detects an engine that hangs, because streams lack a time limit.
            client.ping()
            items = begin(client)
            # Some streams expose their response, though not in their types. For the others it is
            # the last response of this thread.
            responses.append(getattr(items, "_response", self._last.response))
            return iter(items)

        async def each(iterator: Iterator[ItemT]) -> AsyncIterator[ItemT]:
            def following() -> list[ItemT]:
                with self._translated():
                    return list(itertools.islice(iterator, 1))

            while found := await loop.run_in_executor(thread, following):
                yield found[0]

        loop = asyncio.get_running_loop()
        # The stream has its own thread, because it may wait for hours and would block a worker.
        thread = ThreadPoolExecutor(1, "docker stream")
        try:
            yield each(await self.do(begun))
        finally:
            for response in responses:
                # The close ends a wait for the next item, and the work of the engine for it. The
                # engine may have closed the response before.
                with contextlib.suppress(OSError, AttributeError):
                    CancellableStream(iter(()), response).close()
                # CancellableStream leaves the file of the socket open.
                thread.submit(response.close)
            thread.shutdown(wait=False)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except docker.errors.NotFound as error:
            raise NotOnEngine(_reason(error)) from error
        except docker.errors.APIError as error:
            raise EngineRefused(_reason(error)) from error
        except (
            docker.errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            ConnectionError,
        ) as error:
            raise ContainerManagerUnavailable(
                f"no Docker engine answers at {self._host}: {error}; start it, or set DOCKER_HOST "
                "to its address"
            ) from error

    async def close(self) -> None:
        """Close the connections to the engine."""
        if self._client is not None:
            await in_thread(self._client.close)


def _reason(error: docker.errors.APIError) -> str:
    return str(error.explanation or error).strip()


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the lines of chunked bytes; the last line may lack a line feed."""
    pending = b""
    async for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if pending:
        yield pending.decode(errors="replace")

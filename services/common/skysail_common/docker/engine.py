"""The one file that knows the client of the Docker engine: in threads, with errors of ours."""

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
    """The Docker engine cannot do what it was asked to; says why."""


class NotOnEngine(EngineRefused):
    """The Docker engine has no such container or image."""


class DockerEngine:
    """A Docker engine."""

    def __init__(self, host: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Starts idle.

        Args:
            host: Where the engine listens, such as `unix:///var/run/docker.sock`.
            timeout_s: Longest time in which it must give a sign of life while it works.
        """
        self._host = host
        self._timeout_s = timeout_s
        self._client: docker.APIClient | None = None
        self._last = threading.local()
        """In each thread, the response that it got last."""

    def _connected(self) -> docker.APIClient:
        if self._client is None:
            # `auto`: in the version of the API that the engine speaks.
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
        """Do something with the client, in a thread, and return what it returns.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
            NotOnEngine: something that was named does not exist.
            EngineRefused: the engine cannot do it.
        """

        def translated() -> ResultT:
            with self._translated():
                return work(self._connected())

        return await in_thread(translated)

    @asynccontextmanager
    async def stream(
        self, begin: Callable[[docker.APIClient], Iterable[ItemT]]
    ) -> AsyncIterator[AsyncIterator[ItemT]]:
        """Have what the engine sends item by item inside the block, which ends it.

        Errors are those of `do`; an engine that goes away just ends it.
        """
        responses: list[requests.Response] = []

        def begun(client: docker.APIClient) -> Iterator[ItemT]:
            # An engine that hangs is noticed here: streams have no time limit of their own.
            client.ping()
            items = begin(client)
            # Some streams say what they read from, though not in their types; others ask nothing
            # else before they begin.
            responses.append(getattr(items, "_response", self._last.response))
            return iter(items)

        async def each(iterator: Iterator[ItemT]) -> AsyncIterator[ItemT]:
            def following() -> list[ItemT]:
                with self._translated():
                    return list(itertools.islice(iterator, 1))

            while found := await loop.run_in_executor(thread, following):
                yield found[0]

        loop = asyncio.get_running_loop()
        # A thread of its own: what may wait for hours must not take one from those that work.
        thread = ThreadPoolExecutor(1, "docker stream")
        try:
            yield each(await self.do(begun))
        finally:
            for response in responses:
                # Ends a wait for the next item, and what the engine does for it. The engine may
                # have closed it before.
                with contextlib.suppress(OSError, AttributeError):
                    CancellableStream(iter(()), response).close()
                # That leaves the file of its socket open.
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
                f"no Docker engine answers at {self._host}: {error}; start it, or say by "
                "DOCKER_HOST where it listens"
            ) from error

    async def close(self) -> None:
        """Let go of the engine."""
        if self._client is not None:
            await in_thread(self._client.close)


def _reason(error: docker.errors.APIError) -> str:
    return str(error.explanation or error).strip()


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the lines in what comes in pieces; the last may have no line feed."""
    pending = b""
    async for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if pending:
        yield pending.decode(errors="replace")

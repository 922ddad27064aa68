import asyncio

import pytest

from skysail_common.errors import StoreLost, StoreRefused, StoreTaken, StoreUnavailable
from skysail_common.store.owner import LEASE_S
from skysail_management.ownership.acquisition import NEVER_SEEN, Leftovers
from skysail_management.ownership.store_checkpoint import StoreCheckpoint
from skysail_testing.controllable_servers import ControllableMemoryServer
from skysail_testing.ownership import Contender, Place, refusal_of
from skysail_testing.virtual_time import pass_time, virtual_time


@virtual_time
async def test_first_management_owns_a_new_store_and_writes_the_checkpoint():
    place = Place("a")
    first = Contender(place, ControllableMemoryServer())
    await first.start()
    assert place.note.seen == StoreCheckpoint(first.store.id, 0, 1)


@virtual_time
async def test_new_cluster_logs_no_warning(caplog):
    await Contender(Place("a"), ControllableMemoryServer()).start()
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == []
    lost = Place("a", num_artifacts=1)
    await Contender(lost, ControllableMemoryServer(), NEVER_SEEN).start()
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == [
        "store loss accepted"
    ]


@virtual_time
async def test_second_management_is_rejected_with_the_name_of_the_owner():
    server = ControllableMemoryServer()
    await Contender(Place("a"), server).start()
    await server.pass_time(2)
    error = await refusal_of(Contender(Place("b"), server))
    assert isinstance(error, StoreTaken)
    for part in ("place of a", "since now", "last renewal 2 s ago", "another store", "in 13 s"):
        assert part in error.message


@virtual_time
async def test_next_management_of_a_directory_owns_the_store_at_once_after_a_crash():
    server, place = ControllableMemoryServer(), Place("a")
    first = Contender(place, server)
    await first.start()
    await first.commit("1")
    second = Contender(place, server)
    await second.start()
    assert second.value == "1"
    with pytest.raises(StoreTaken):
        await first.commit("late")


@virtual_time
async def test_another_directory_owns_the_store_after_the_lease_or_a_release():
    server = ControllableMemoryServer()
    await Contender(Place("a"), server).start()
    await server.pass_time(LEASE_S + 1)
    second = Contender(Place("b"), server)
    await second.start()
    assert await refusal_of(Contender(Place("c"), server))
    await second.opening.close()
    assert await refusal_of(Contender(Place("c"), server)) is None


@virtual_time
async def test_lease_of_a_dead_owner_is_awaited():
    server = ControllableMemoryServer()
    await Contender(Place("a"), server).start()
    second = Contender(Place("b"), server)
    opening = asyncio.create_task(second.opening.open(60.0, asyncio.Event()))
    for _ in range(int(LEASE_S) + 2):
        await server.pass_time(1.0)
        await pass_time(1.0)
    assert opening.done()
    assert opening.result()


@virtual_time
async def test_renewing_owner_is_not_awaited():
    server = ControllableMemoryServer()
    first = Contender(Place("a"), server)
    await first.start()
    second = Contender(Place("b"), server)
    opening = asyncio.create_task(second.opening.open(60.0, asyncio.Event()))
    await server.pass_time(1.0)
    await pass_time(1.0)
    assert not opening.done()
    await first.keeper.check()
    await pass_time(1.0)
    with pytest.raises(StoreTaken, match="another management owns it: host"):
        await opening


@virtual_time
async def test_empty_store_is_rejected_while_artifacts_exist():
    server, place = ControllableMemoryServer(), Place("a", num_artifacts=3)
    place.leftovers = Leftovers(3, 2)
    first = Contender(place, server)
    place.note.seen = StoreCheckpoint("before", 7, 1)
    error = await refusal_of(first)
    assert isinstance(error, StoreLost)
    for part in (
        "it is empty, and was at revision 7",
        "3 artifacts and 2 replicas of the cluster exist",
        "SKYSAIL_MANAGEMENT_ACCEPT_STORE_LOSS=before-1-7",
        "skysail up --accept-store-loss before-1-7",
    ):
        assert part in error.message
    assert (await first.store.look()).id == "", "it is left as it is"
    assert place.note.seen == StoreCheckpoint("before", 7, 1)


@virtual_time
async def test_empty_store_is_rejected_without_a_checkpoint():
    error = await refusal_of(Contender(Place("a", num_artifacts=1), ControllableMemoryServer()))
    assert isinstance(error, StoreLost)
    assert f"LOSS={NEVER_SEEN} " in error.message
    accepted = Contender(Place("a", num_artifacts=1), ControllableMemoryServer(), NEVER_SEEN)
    assert await refusal_of(accepted) is None


@virtual_time
async def test_accepted_loss_does_not_cover_the_next():
    server, place = ControllableMemoryServer(), Place("a", num_artifacts=3)
    place.note.seen = StoreCheckpoint("before", 7, 4)
    first = Contender(place, server, "before-4-7")
    await first.start()
    assert first.store.epoch == 5, "an owner of the lost store may still live"
    await first.commit("1")
    await first.opening.close()
    await server.flush()
    error = await refusal_of(Contender(place, server, "before-4-7"))
    assert isinstance(error, StoreLost)
    assert f"LOSS={place.note.seen.id}-5-1 (skysail up" in error.message


@virtual_time
async def test_accepted_older_store_may_reach_the_same_revision():
    server, place = ControllableMemoryServer(), Place("a", num_artifacts=1)
    place.leftovers = Leftovers(0, 0)
    first = Contender(place, server)
    await first.start()
    await first.commit("1")
    backup = await server.backup()
    await first.commit("2")
    await first.opening.close()
    assert place.note.seen is not None
    accepted = place.note.seen.name
    place.leftovers = Leftovers(1, 0)
    await server.roll_back(backup)
    second = Contender(place, server, accepted)
    await second.start()
    await second.commit("other 2")
    await second.opening.close()
    await server.flush()
    assert isinstance(await refusal_of(Contender(place, server, accepted)), StoreLost)


@virtual_time
async def test_older_or_foreign_store_is_rejected():
    server, place = ControllableMemoryServer(), Place("a", num_artifacts=1)
    first = Contender(place, server)
    place.leftovers = Leftovers(0, 0)
    await first.start()
    await first.commit("1")
    backup = await server.backup()
    await first.commit("2")
    await first.opening.close()
    place.leftovers = Leftovers(1, 0)
    await server.roll_back(backup)
    error = await refusal_of(Contender(place, server))
    assert isinstance(error, StoreLost)
    assert "older than it was (at revision 1, not 2)" in error.message
    other = ControllableMemoryServer()
    await Contender(Place("b"), other).start()
    await other.pass_time(LEASE_S + 1)
    place.note.seen = StoreCheckpoint("mine", 2, 1)
    error = await refusal_of(Contender(place, other))
    assert isinstance(error, StoreLost)
    assert "another one (store1, not mine)" in error.message


@virtual_time
async def test_empty_store_is_accepted_without_leftovers():
    place = Place("a")
    place.note.seen = StoreCheckpoint("before", 7, 1)
    first = Contender(place, ControllableMemoryServer())
    await first.start()
    assert place.note.seen == StoreCheckpoint(first.store.id, 0, 2)


@virtual_time
async def test_store_with_records_is_accepted_without_a_checkpoint():
    server = ControllableMemoryServer()
    first = Contender(Place("a"), server)
    await first.start()
    await first.commit("1")
    await first.opening.close()
    second = Contender(Place("b", num_artifacts=1), server)
    await second.start()
    assert second.value == "1"


@virtual_time
async def test_silent_store_is_awaited_until_the_timeout(caplog):
    contender = Contender(Place("a"), ControllableMemoryServer())
    store = contender.store
    store.fails_with = [StoreUnavailable("gone")] * 3
    assert await contender.opening.open(10.0, asyncio.Event())
    told = [record.levelname for record in caplog.records if "waiting" in record.message]
    assert told == ["WARNING"], "once for each reason"
    store.fails_with = [StoreUnavailable("gone")] * 1000
    with pytest.raises(StoreUnavailable):
        await contender.opening.open(10.0, asyncio.Event())


@virtual_time
async def test_stop_ends_the_wait_for_the_store():
    contender = Contender(Place("a"), ControllableMemoryServer())
    contender.store.fails_with = [StoreUnavailable("gone")] * 1000
    stop = asyncio.Event()
    opening = asyncio.create_task(contender.opening.open(1000.0, stop))
    await pass_time(5)
    stop.set()
    assert not await opening


@virtual_time
async def test_store_that_rejects_is_not_retried():
    contender = Contender(Place("a"), ControllableMemoryServer())
    contender.store.fails_with = [StoreRefused("wrong password")] * 2
    with pytest.raises(StoreRefused):
        await contender.opening.open(10.0, asyncio.Event())
    assert len(contender.store.fails_with) == 1


@virtual_time
async def test_unreachable_store_does_not_block_the_shutdown():
    contender = Contender(Place("a"), ControllableMemoryServer())
    await contender.start()
    contender.store.fails_with = [StoreUnavailable("gone")]
    await contender.opening.close()

import asyncio

import pytest

from skysail_common.errors import StoreLost, StoreRefused, StoreTaken, StoreUnavailable
from skysail_common.store.owner import LEASE_S
from skysail_management.ownership.acquisition import NEVER_SEEN, Leftovers
from skysail_management.ownership.store_checkpoint import StoreCheckpoint
from skysail_testing.ownership import Contender, Place, refusal_of
from skysail_testing.store_worlds import MemoryWorld
from skysail_testing.virtual_time import pass_time, virtual_time


@virtual_time
async def test_a_first_management_owns_a_new_store_and_notes_it():
    place = Place("a")
    first = Contender(place, MemoryWorld())
    await first.start()
    assert place.note.seen == StoreCheckpoint(first.store.id, 0, 1)


@virtual_time
async def test_a_new_cluster_is_no_reason_to_warn(caplog):
    await Contender(Place("a"), MemoryWorld()).start()
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == []
    lost = Place("a", num_artifacts=1)
    await Contender(lost, MemoryWorld(), NEVER_SEEN).start()
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == [
        "store loss accepted"
    ]


@virtual_time
async def test_a_second_management_is_refused_by_the_name_of_the_first():
    world = MemoryWorld()
    await Contender(Place("a"), world).start()
    await world.pass_time(2)
    error = await refusal_of(Contender(Place("b"), world))
    assert isinstance(error, StoreTaken)
    for part in ("place of a", "since now", "last renewal 2 s ago", "another store", "in 13 s"):
        assert part in error.message


@virtual_time
async def test_the_next_management_of_a_place_follows_at_once_after_a_crash():
    world, place = MemoryWorld(), Place("a")
    first = Contender(place, world)
    await first.start()
    await first.commit("1")
    second = Contender(place, world)
    await second.start()
    assert second.value == "1"
    with pytest.raises(StoreTaken):
        await first.commit("late")


@virtual_time
async def test_another_place_follows_a_crash_after_the_lease_and_an_orderly_end_at_once():
    world = MemoryWorld()
    await Contender(Place("a"), world).start()
    await world.pass_time(LEASE_S + 1)
    second = Contender(Place("b"), world)
    await second.start()
    assert await refusal_of(Contender(Place("c"), world))
    await second.opening.close()
    assert await refusal_of(Contender(Place("c"), world)) is None


@virtual_time
async def test_the_end_of_the_lease_of_a_dead_owner_is_waited_for():
    world = MemoryWorld()
    await Contender(Place("a"), world).start()
    second = Contender(Place("b"), world)
    opening = asyncio.create_task(second.opening.open(60.0, asyncio.Event()))
    for _ in range(int(LEASE_S) + 2):
        await world.pass_time(1.0)
        await pass_time(1.0)
    assert opening.done()
    assert opening.result()


@virtual_time
async def test_an_owner_that_renews_is_not_waited_for():
    world = MemoryWorld()
    first = Contender(Place("a"), world)
    await first.start()
    second = Contender(Place("b"), world)
    opening = asyncio.create_task(second.opening.open(60.0, asyncio.Event()))
    await world.pass_time(1.0)
    await pass_time(1.0)
    assert not opening.done()
    await first.keeper.check()
    await pass_time(1.0)
    with pytest.raises(StoreTaken, match="another management owns it: host"):
        await opening


@virtual_time
async def test_a_store_that_is_empty_is_refused_while_its_artifacts_exist():
    world, place = MemoryWorld(), Place("a", num_artifacts=3)
    place.leftovers = Leftovers(3, 2)
    first = Contender(place, world)
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
async def test_an_empty_store_is_refused_without_a_note_too():
    error = await refusal_of(Contender(Place("a", num_artifacts=1), MemoryWorld()))
    assert isinstance(error, StoreLost)
    assert f"LOSS={NEVER_SEEN} " in error.message
    accepted = Contender(Place("a", num_artifacts=1), MemoryWorld(), NEVER_SEEN)
    assert await refusal_of(accepted) is None


@virtual_time
async def test_an_accepted_loss_is_no_licence_for_the_next():
    world, place = MemoryWorld(), Place("a", num_artifacts=3)
    place.note.seen = StoreCheckpoint("before", 7, 4)
    first = Contender(place, world, "before-4-7")
    await first.start()
    assert first.store.epoch == 5, "an owner of the lost store may still live"
    await first.commit("1")
    await first.opening.close()
    await world.flush()
    error = await refusal_of(Contender(place, world, "before-4-7"))
    assert isinstance(error, StoreLost)
    assert f"LOSS={place.note.seen.id}-5-1 (skysail up" in error.message


@virtual_time
async def test_an_accepted_older_store_may_come_to_the_same_revision_and_is_kept_then():
    world, place = MemoryWorld(), Place("a", num_artifacts=1)
    place.leftovers = Leftovers(0, 0)
    first = Contender(place, world)
    await first.start()
    await first.commit("1")
    backup = await world.backup()
    await first.commit("2")
    await first.opening.close()
    assert place.note.seen is not None
    accepted = place.note.seen.name
    place.leftovers = Leftovers(1, 0)
    await world.roll_back(backup)
    second = Contender(place, world, accepted)
    await second.start()
    await second.commit("other 2")
    await second.opening.close()
    await world.flush()
    assert isinstance(await refusal_of(Contender(place, world, accepted)), StoreLost)


@virtual_time
async def test_an_older_store_and_another_one_are_refused_too():
    world, place = MemoryWorld(), Place("a", num_artifacts=1)
    first = Contender(place, world)
    place.leftovers = Leftovers(0, 0)
    await first.start()
    await first.commit("1")
    backup = await world.backup()
    await first.commit("2")
    await first.opening.close()
    place.leftovers = Leftovers(1, 0)
    await world.roll_back(backup)
    error = await refusal_of(Contender(place, world))
    assert isinstance(error, StoreLost)
    assert "older than it was (at revision 1, not 2)" in error.message
    other = MemoryWorld()
    await Contender(Place("b"), other).start()
    await other.pass_time(LEASE_S + 1)
    place.note.seen = StoreCheckpoint("mine", 2, 1)
    error = await refusal_of(Contender(place, other))
    assert isinstance(error, StoreLost)
    assert "another one (store1, not mine)" in error.message


@virtual_time
async def test_a_store_without_its_data_is_taken_where_nothing_would_be_lost():
    place = Place("a")
    place.note.seen = StoreCheckpoint("before", 7, 1)
    first = Contender(place, MemoryWorld())
    await first.start()
    assert place.note.seen == StoreCheckpoint(first.store.id, 0, 2)


@virtual_time
async def test_a_store_with_records_is_taken_by_a_place_that_never_saw_it():
    world = MemoryWorld()
    first = Contender(Place("a"), world)
    await first.start()
    await first.commit("1")
    await first.opening.close()
    second = Contender(Place("b", num_artifacts=1), world)
    await second.start()
    assert second.value == "1"


@virtual_time
async def test_a_store_that_does_not_answer_is_waited_for_as_long_as_was_said(caplog):
    contender = Contender(Place("a"), MemoryWorld())
    store = contender.store
    store.fails_with = [StoreUnavailable("gone")] * 3
    assert await contender.opening.open(10.0, asyncio.Event())
    told = [record.levelname for record in caplog.records if "waiting" in record.message]
    assert told == ["WARNING"], "once for each reason"
    store.fails_with = [StoreUnavailable("gone")] * 1000
    with pytest.raises(StoreUnavailable):
        await contender.opening.open(10.0, asyncio.Event())


@virtual_time
async def test_the_wait_for_a_store_ends_when_management_is_told_to_stop():
    contender = Contender(Place("a"), MemoryWorld())
    contender.store.fails_with = [StoreUnavailable("gone")] * 1000
    stop = asyncio.Event()
    opening = asyncio.create_task(contender.opening.open(1000.0, stop))
    await pass_time(5)
    stop.set()
    assert not await opening


@virtual_time
async def test_a_store_that_refuses_is_not_asked_again():
    contender = Contender(Place("a"), MemoryWorld())
    contender.store.fails_with = [StoreRefused("wrong password")] * 2
    with pytest.raises(StoreRefused):
        await contender.opening.open(10.0, asyncio.Event())
    assert len(contender.store.fails_with) == 1


@virtual_time
async def test_a_store_that_is_away_at_the_end_stops_nobody_from_ending():
    contender = Contender(Place("a"), MemoryWorld())
    await contender.start()
    contender.store.fails_with = [StoreUnavailable("gone")]
    await contender.opening.close()

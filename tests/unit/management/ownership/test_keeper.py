import asyncio
import logging

import pytest

from skysail_common.errors import (
    FailedPrecondition,
    StoreLost,
    StoreRefused,
    StoreTaken,
    StoreUnavailable,
)
from skysail_management.ownership.store_checkpoint import StoreCheckpoint
from skysail_testing.controllable_servers import ControllableMemoryServer
from skysail_testing.ownership import Contender, Place
from skysail_testing.virtual_time import pass_time, settle, until, virtual_time


async def started(server: ControllableMemoryServer, lock: str = "a") -> Contender:
    contender = Contender(Place(lock), server)
    await contender.start()
    return contender


def levels(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.levelname for record in caplog.records if record.message == text]


@virtual_time
async def test_renewing_owner_keeps_the_store():
    server = ControllableMemoryServer()
    contender = await started(server)
    keeping = asyncio.create_task(contender.keeper.keep())
    for _ in range(10):
        await server.pass_time(4)
        await pass_time(5)
    assert (await contender.store.look()).idle_s < 5
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


@virtual_time
async def test_replaced_owner_learns_of_it_at_the_next_renewal():
    server = ControllableMemoryServer()
    contender = await started(server)
    keeping = asyncio.create_task(contender.keeper.keep())
    await settle()
    await started(server, "a")
    with pytest.raises(StoreTaken, match="taken over by host"):
        await asyncio.wait_for(keeping, 5.1)


@virtual_time
async def test_replaced_owner_learns_of_it_at_a_commit():
    server = ControllableMemoryServer()
    contender = await started(server)
    freshness = asyncio.create_task(contender.records.keep_fresh(lambda: None))
    await settle()
    await started(server, "a")
    with pytest.raises(StoreTaken):
        await contender.commit("late")
    with pytest.raises(StoreTaken):
        await asyncio.wait_for(freshness, 0.1)


@virtual_time
async def test_store_loss_is_logged_once_and_the_mirror_stays(caplog):
    caplog.set_level(logging.INFO)
    server = ControllableMemoryServer()
    contender = await started(server)
    await contender.commit("1")
    backup = await server.backup()
    changes = []
    freshness = asyncio.create_task(contender.records.keep_fresh(lambda: changes.append(1)))
    await settle()
    await server.flush()
    for _ in range(3):
        await contender.keeper.check()
        with pytest.raises(StoreLost, match="'skysail store restore'"):
            await contender.commit("2")
        await pass_time(3)
    assert contender.value == "1"
    assert "came back empty: it was at revision 1" in contender.keeper.problem
    assert contender.keeper.is_reachable
    assert levels(caplog, "store not usable") == ["ERROR"]
    assert changes == []
    await server.roll_back(backup)
    await contender.keeper.check()
    assert contender.keeper.problem == ""
    assert levels(caplog, "store usable again") == ["WARNING"]
    await until(lambda: changes)
    assert contender.health == [False, True]
    await contender.commit("2")
    freshness.cancel()
    await asyncio.gather(freshness, return_exceptions=True)


@virtual_time
async def test_unreachable_store_is_reported(caplog):
    contender = await started(ControllableMemoryServer())
    contender.store.fails_with = [StoreUnavailable("gone")] * 2
    await contender.keeper.check()
    await contender.keeper.check()
    assert not contender.keeper.is_reachable
    assert contender.keeper.problem == "gone"
    assert levels(caplog, "store not usable") == ["WARNING"]
    contender.store.fails_with = [StoreRefused("wrong password")]
    await contender.keeper.check()
    assert contender.keeper.is_reachable
    assert levels(caplog, "store not usable") == ["WARNING", "ERROR"]


@virtual_time
async def test_checkpoint_follows_the_store_except_a_loss():
    server = ControllableMemoryServer()
    contender = await started(server)
    await contender.commit("1")
    await contender.keeper.check()
    noted = StoreCheckpoint(contender.store.id, 1, 1)
    assert contender.place.note.seen == noted
    await server.flush()
    await contender.keeper.check()
    assert contender.place.note.seen == noted


@virtual_time
async def test_restore_writes_the_mirror_into_a_lost_store():
    server = ControllableMemoryServer()
    contender = await started(server)
    await contender.commit("1")
    await server.flush()
    assert await contender.keeper.restore(contender.records) == 1
    assert contender.keeper.problem == ""
    await contender.commit("2")
    await contender.opening.close()
    following = Contender(contender.place, server)
    await following.start()
    assert following.value == "2"


@virtual_time
async def test_restore_is_rejected_without_a_loss():
    server = ControllableMemoryServer()
    contender = await started(server)
    with pytest.raises(FailedPrecondition, match="lost no data"):
        await contender.keeper.restore(contender.records)
    contender.store.fails_with = [StoreUnavailable("gone")]
    with pytest.raises(StoreUnavailable, match="gone"):
        await contender.keeper.restore(contender.records)


@virtual_time
async def test_restore_is_rejected_for_a_foreign_store():
    server = ControllableMemoryServer()
    contender = await started(server)
    await contender.commit("1")
    await server.flush()
    other = await started(server, "b")
    with pytest.raises(StoreLost, match="another one"):
        await contender.keeper.restore(contender.records)
    assert other.value == ""

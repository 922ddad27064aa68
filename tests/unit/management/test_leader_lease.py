import asyncio
from random import Random
from typing import cast

import pytest

from skysail_common.errors import ContainerManagerUnavailable
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotAllowed
from skysail_management.leadership.election import LeaseTimes
from skysail_management.leadership.lease import LeaderLease
from skysail_testing.fake_leases import Ended, FakeAlarm, FakeLeaseApi
from skysail_testing.virtual_time import now, pass_time, settle, until, virtual_time

TIMES = LeaseTimes(15)


class Candidate:
    def __init__(self, api: FakeLeaseApi, name: str = "a") -> None:
        self.alarm = FakeAlarm()
        self.stop = asyncio.Event()
        self.lease = LeaderLease(cast(KubernetesApi, api), "m", name, TIMES, now, self.alarm)

    async def lead(self) -> "asyncio.Task[None]":
        assert await self.lease.acquire(self.stop)
        return asyncio.create_task(self.lease.keep())


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


@virtual_time
async def test_leader_keeps_the_lease_while_it_renews():
    api = FakeLeaseApi()
    leader = Candidate(api)
    keeping = await leader.lead()
    for _ in range(100):
        await pass_time(1)
        assert leader.alarm.is_on
    assert api.holder == "a"
    await ended(keeping)


@virtual_time
async def test_standby_leads_at_once_after_a_release():
    api = FakeLeaseApi()
    leader, standby = Candidate(api), Candidate(api, "b")
    keeping = await leader.lead()
    waiting = asyncio.create_task(standby.lead())
    await pass_time(100)
    assert not waiting.done()
    await ended(keeping)
    await leader.lease.release()
    assert not leader.alarm.is_on
    await until(waiting.done, within_s=1.1)
    assert api.holder == "b"
    await ended(waiting.result())


@virtual_time
async def test_standby_leads_after_a_crash_but_not_before_the_alarm():
    api = FakeLeaseApi()
    leader, standby = Candidate(api), Candidate(api, "b")
    keeping = await leader.lead()
    waiting = asyncio.create_task(standby.lead())
    await pass_time(30)
    await ended(keeping)
    await pass_time(12)
    assert not leader.alarm.is_on
    assert not waiting.done()
    await until(waiting.done, within_s=4.1)
    await ended(waiting.result())


@virtual_time
async def test_standby_learns_of_the_leader_and_both_know_the_lease():
    api = FakeLeaseApi()
    assert api.lease is not None
    api.lease["metadata"]["uid"] = "uid"
    leader, standby = Candidate(api), Candidate(api, "b")
    told: list[str] = []
    assert await leader.lease.acquire(leader.stop, lambda: told.append("a"))
    assert told == []
    waiting = asyncio.create_task(standby.lease.acquire(standby.stop, lambda: told.append("b")))
    await until(lambda: told)
    assert set(told) == {"b"}
    assert leader.lease.id == standby.lease.id == "uid"
    standby.stop.set()
    assert not await waiting


@pytest.mark.parametrize("trouble", ["silence", "errors"])
@virtual_time
async def test_unreachable_cluster_does_not_postpone_the_alarm(trouble):
    api = FakeLeaseApi()
    leader = Candidate(api)
    keeping = await leader.lead()
    await pass_time(10)
    api.is_silent = trouble == "silence"
    api.error = ContainerManagerUnavailable("gone") if trouble == "errors" else None
    latest = now() + TIMES.renew_deadline_s
    await pass_time(7.5)
    assert leader.alarm.is_on
    await pass_time(2.6)
    assert leader.alarm.until <= latest
    assert not leader.alarm.is_on
    await ended(keeping)


@virtual_time
async def test_outage_of_seven_seconds_is_survived():
    api = FakeLeaseApi()
    leader = Candidate(api)
    keeping = await leader.lead()
    await pass_time(10)
    api.is_silent = True
    await pass_time(7)
    api.is_silent = False
    for _ in range(20):
        await pass_time(1)
        assert leader.alarm.is_on
    await ended(keeping)


@virtual_time
async def test_leader_exits_at_once_if_another_holds_the_lease():
    api = FakeLeaseApi()
    leader = Candidate(api)
    keeping = await leader.lead()
    await pass_time(10)
    api.change(holderIdentity="b")
    await asyncio.wait({keeping}, timeout=2.1)
    with pytest.raises(Ended, match="'b' holds the lease now"):
        keeping.result()
    assert not leader.alarm.is_on


@virtual_time
async def test_deleted_lease_is_not_recreated():
    api = FakeLeaseApi()
    leader = Candidate(api)
    keeping = await leader.lead()
    api.lease = None
    await pass_time(10.1)
    assert not leader.alarm.is_on
    assert api.lease is None
    await ended(keeping)


@virtual_time
async def test_missing_lease_is_awaited(caplog):
    api = FakeLeaseApi()
    made, api.lease = api.lease, None
    standby = Candidate(api)
    with caplog.at_level("INFO"):
        waiting = asyncio.create_task(standby.lead())
        await pass_time(100)
    # The log has it once.
    assert [record.message for record in caplog.records] == ["standby waiting"]
    assert not waiting.done()
    api.lease = made
    await until(waiting.done)
    await ended(waiting.result())


@virtual_time
async def test_missing_rule_of_a_role_is_reported():
    api = FakeLeaseApi()
    api.error = NotAllowed("'x' may not get leases")
    with pytest.raises(NotAllowed):
        await Candidate(api).lead()


@virtual_time
async def test_standby_can_be_stopped():
    api = FakeLeaseApi()
    api.change(holderIdentity="b", leaseDurationSeconds=1000)
    standby = Candidate(api)
    waiting = asyncio.create_task(standby.lease.acquire(standby.stop))
    await pass_time(10)
    standby.stop.set()
    await settle()
    assert waiting.done()
    assert waiting.result() is False
    assert api.holder == "b"


@pytest.mark.parametrize("trouble", ["silence", "errors"])
@virtual_time
async def test_failed_release_has_a_time_limit(trouble):
    api = FakeLeaseApi()
    leader = Candidate(api)
    await ended(await leader.lead())
    api.is_silent = trouble == "silence"
    api.error = ContainerManagerUnavailable("gone") if trouble == "errors" else None
    began = now()
    await leader.lease.release()
    assert now() - began < 5.1
    assert not leader.alarm.is_on


@virtual_time
async def test_foreign_lease_is_not_released():
    api = FakeLeaseApi()
    leader = Candidate(api)
    await ended(await leader.lead())
    api.change(holderIdentity="b")
    await leader.lease.release()
    assert api.holder == "b"


@pytest.mark.parametrize("seed", range(10))
@virtual_time
async def test_two_managements_never_lead_at_once(seed):
    """Three candidates, answers that come late or not at all, crashes and releases."""
    random = Random(seed)
    api = FakeLeaseApi(random)
    leaders: set[Candidate] = set()
    reigns = 0

    async def live(name: str) -> None:
        nonlocal reigns
        for life in range(1000):
            candidate = Candidate(api, f"{name}-{life}")
            keeping = await candidate.lead()
            try:
                if candidate.alarm.is_on:
                    assert not [each for each in leaders if each.alarm.is_on]
                    leaders.add(candidate)
                    reigns += 1
                await asyncio.wait({keeping}, timeout=random.random() * 60)
            finally:
                await ended(keeping)
            # The candidate has ended, by an orderly stop or a crash.
            leaders.discard(candidate)
            if candidate.alarm.is_on and random.random() < 0.5:
                await candidate.lease.release()
            candidate.alarm.disarm()

    lives = [asyncio.create_task(live(name)) for name in "abc"]
    await asyncio.wait(lives, timeout=3000, return_when=asyncio.FIRST_EXCEPTION)
    for each in lives:
        if each.done():
            each.result()
        await ended(each)
    await settle()
    assert reigns > 20

import asyncio

import pytest

from skysail.calls.attempts import (
    PATIENCE_S,
    RESTART_PATIENCE_S,
    WHOLE_S,
    LostConnection,
    Patience,
    outcome,
)
from skysail.connection_errors import ManagementRestarting
from skysail_common.errors import SkysailError, Unavailable
from skysail_testing.clock import FakeClock

AWAY = Unavailable("management is away")


def told(error) -> SkysailError:
    raise AssertionError(error)


def test_what_never_reached_management_fails_at_once():
    with pytest.raises(Unavailable):
        Patience(FakeClock()).next_wait_s(AWAY)


def test_a_management_that_is_restarted_is_waited_for():
    clock = FakeClock()
    patience = Patience(clock, lambda: 0.0)
    restarting = ManagementRestarting("it is being restarted")
    assert patience.next_wait_s(restarting) == 0.1
    clock.advance(RESTART_PATIENCE_S)
    assert patience.next_wait_s(restarting) == 0.2
    clock.advance(0.1)
    with pytest.raises(Unavailable, match="being restarted") as raised:
        patience.next_wait_s(restarting)
    assert type(raised.value) is Unavailable


@pytest.mark.parametrize("begins_by_a_loss", [True, False])
def test_what_has_begun_waits_for_management(begins_by_a_loss):
    clock = FakeClock()
    patience = Patience(clock, lambda: 0.0)
    if not begins_by_a_loss:
        patience.went_on()
    first = LostConnection(AWAY)
    waits = [patience.next_wait_s(error) for error in (first, AWAY, AWAY, first, AWAY, AWAY)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    clock.advance(PATIENCE_S)
    patience.next_wait_s(AWAY)
    clock.advance(0.1)
    with pytest.raises(Unavailable, match="management is away"):
        patience.next_wait_s(first)


def test_each_answer_begins_the_patience_again():
    clock = FakeClock()
    patience = Patience(clock, lambda: 0.0)
    for _ in range(3):
        patience.went_on()
        assert patience.next_wait_s(AWAY) == 0.1
        clock.advance(PATIENCE_S)


def test_a_management_that_ends_again_and_again_is_not_asked_for_ever():
    clock = FakeClock()
    patience = Patience(clock, lambda: 0.0)
    for _ in range(round(WHOLE_S / PATIENCE_S) + 1):
        patience.went_on()
        patience.next_wait_s(LostConnection(AWAY))
        clock.advance(PATIENCE_S)
    patience.went_on()
    with pytest.raises(Unavailable, match="management is away"):
        patience.next_wait_s(LostConnection(AWAY))


async def cancelled_by_grpc():
    raise asyncio.CancelledError


def test_a_call_that_grpc_cancels_is_lost():
    with pytest.raises(LostConnection):
        asyncio.run(outcome(cancelled_by_grpc(), told))


def test_a_caller_who_is_cancelled_stays_so():
    async def main():
        task = asyncio.ensure_future(outcome(asyncio.Event().wait(), told))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())

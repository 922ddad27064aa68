import asyncio

import pytest

from skysail.calls.retries import (
    MAX_OPERATION_S,
    PATIENCE_S,
    RESTART_PATIENCE_S,
    LostConnection,
    RetryPolicy,
    await_call,
)
from skysail.connection_errors import ManagementRestarting
from skysail_common.errors import SkysailError, Unavailable
from skysail_testing.clock import FakeClock

AWAY = Unavailable("management is away")


def translate_error(error) -> SkysailError:
    raise AssertionError(error)


def test_a_new_operation_fails_at_once():
    with pytest.raises(Unavailable):
        RetryPolicy(FakeClock()).next_wait_s(AWAY)


def test_a_new_operation_waits_for_a_restart_of_management():
    clock = FakeClock()
    retries = RetryPolicy(clock, lambda: 0.0)
    restarting = ManagementRestarting("it is being restarted")
    assert retries.next_wait_s(restarting) == 0.1
    clock.advance(RESTART_PATIENCE_S)
    assert retries.next_wait_s(restarting) == 0.2
    clock.advance(0.1)
    with pytest.raises(Unavailable, match="being restarted") as raised:
        retries.next_wait_s(restarting)
    assert type(raised.value) is Unavailable


@pytest.mark.parametrize("begins_by_a_loss", [True, False])
def test_an_operation_in_flight_waits_for_management(begins_by_a_loss):
    clock = FakeClock()
    retries = RetryPolicy(clock, lambda: 0.0)
    if not begins_by_a_loss:
        retries.note_answer()
    first = LostConnection(AWAY)
    waits = [retries.next_wait_s(error) for error in (first, AWAY, AWAY, first, AWAY, AWAY)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    clock.advance(PATIENCE_S)
    retries.next_wait_s(AWAY)
    clock.advance(0.1)
    with pytest.raises(Unavailable, match="management is away"):
        retries.next_wait_s(first)


def test_an_answer_resets_the_retry_time():
    clock = FakeClock()
    retries = RetryPolicy(clock, lambda: 0.0)
    for _ in range(3):
        retries.note_answer()
        assert retries.next_wait_s(AWAY) == 0.1
        clock.advance(PATIENCE_S)


def test_retries_end_for_a_management_that_keeps_failing():
    clock = FakeClock()
    retries = RetryPolicy(clock, lambda: 0.0)
    for _ in range(round(MAX_OPERATION_S / PATIENCE_S) + 1):
        retries.note_answer()
        retries.next_wait_s(LostConnection(AWAY))
        clock.advance(PATIENCE_S)
    retries.note_answer()
    with pytest.raises(Unavailable, match="management is away"):
        retries.next_wait_s(LostConnection(AWAY))


async def cancelled_by_grpc():
    raise asyncio.CancelledError


def test_a_call_that_grpc_cancels_is_lost():
    with pytest.raises(LostConnection):
        asyncio.run(await_call(cancelled_by_grpc(), translate_error))


def test_a_cancelled_caller_stays_cancelled():
    async def main():
        task = asyncio.ensure_future(await_call(asyncio.Event().wait(), translate_error))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())

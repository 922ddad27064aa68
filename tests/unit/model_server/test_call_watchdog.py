import asyncio
import logging

import pytest

from skysail_common.call_style import CallStyle
from skysail_common.clock import NEVER
from skysail_common.states import ExitCode
from skysail_model_server import call_watchdog
from skysail_model_server.call_watchdog import CallWatchdog
from skysail_model_server.execution import Execution
from skysail_model_server.model import Model
from skysail_protos.v1 import model_server_pb2
from skysail_testing.clock import FakeClock
from unit.frontend.parts import DOUBLES


class Ended(BaseException):
    """A stand-in for the end of the process."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def dog(clock: FakeClock) -> CallWatchdog:
    return CallWatchdog(10.0, clock)


def test_a_call_is_stuck_once_it_takes_too_long(dog, clock):
    assert dog.stuck_for_s() == 0
    dog.call_began(0)
    clock.advance(10.0)
    assert dog.stuck_for_s() == 0
    clock.advance(1.0)
    assert dog.stuck_for_s() == 11.0
    dog.call_ended()
    assert dog.stuck_for_s() == 0


def test_a_slow_model_gets_twenty_times_its_expected_time(dog, clock):
    dog.call_began(60_000_000)
    clock.advance(1_200.0)
    assert dog.stuck_for_s() == 0
    clock.advance(1.0)
    assert dog.stuck_for_s() > 0
    dog.call_began(1)
    clock.advance(11.0)
    assert dog.stuck_for_s() > 0


def test_the_time_of_the_warm_up_raises_the_limit(dog, clock):
    dog.learn(1.0)
    dog.call_began(0)
    clock.advance(20.0)
    assert dog.stuck_for_s() == 0
    clock.advance(1.0)
    assert dog.stuck_for_s() > 0


def test_each_call_of_a_batch_that_fails_has_its_own_time(dog, clock):
    stuck = []

    def fail_slowly(x):
        clock.advance(9.0)
        stuck.append(dog.stuck_for_s())
        raise ValueError

    batch = model_server_pb2.Batch(id=1, rows=[1, 1, 1], inputs=[bytes(72)])
    result = Execution(Model(fail_slowly, CallStyle(), DOUBLES), dog).run(batch)
    assert len(result.errors) == 3
    assert stuck == [0.0] * len(stuck)
    assert len(stuck) > 1
    clock.advance(100.0)
    assert dog.stuck_for_s() == 0


async def test_a_stuck_call_ends_the_process_with_its_stack_in_the_log(
    dog, clock, monkeypatch, caplog
):
    monkeypatch.setattr(call_watchdog, "_CHECK_S", 0.0)
    armed = []
    monkeypatch.setattr(
        call_watchdog.faulthandler,
        "dump_traceback_later",
        lambda after_s, **_: armed.append(after_s),
    )
    cancelled = []
    monkeypatch.setattr(
        call_watchdog.faulthandler, "cancel_dump_traceback_later", lambda: cancelled.append(True)
    )
    statuses = []

    def end(status):
        statuses.append(status)
        raise Ended

    dog.call_began(0)
    clock.advance(11.0)
    with caplog.at_level(logging.ERROR), pytest.raises(Ended):
        await dog.run(end)
    assert statuses == [ExitCode.STUCK]
    assert armed == [10.0]
    assert cancelled == [True]
    assert "no result after 11 s" in caplog.text
    assert "test_call_watchdog" in caplog.text


async def test_a_stuck_replica_ends_even_if_the_log_cannot_be_written(dog, clock, monkeypatch):
    monkeypatch.setattr(call_watchdog, "_CHECK_S", 0.0)
    monkeypatch.setattr(call_watchdog.faulthandler, "dump_traceback_later", lambda *_, **__: None)
    monkeypatch.setattr(call_watchdog.faulthandler, "cancel_dump_traceback_later", lambda: None)

    def fail(taken_s, frames):
        raise OSError("no space left")

    def end(status):
        raise Ended

    monkeypatch.setattr(call_watchdog, "_log_stuck", fail)
    dog.call_began(0)
    clock.advance(11.0)
    with pytest.raises(Ended):
        await dog.run(end)


async def test_calls_have_no_limit_if_the_setting_is_0(clock):
    dog = CallWatchdog(NEVER, clock)
    dog.call_began(0)
    clock.advance(1e9)
    assert dog.stuck_for_s() == 0
    await asyncio.wait_for(dog.run(), 1)

import pytest

from skysail_common.process import watchdog
from skysail_common.process.watchdog import wait_for_silence
from skysail_testing.clock import FakeClock

PATIENCE_S = 2.0
LIMIT_S = 10.0


@pytest.fixture(autouse=True)
def _asks_without_a_pause(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watchdog, "_EVERY_S", 0.0)


class Process:
    """A process with given answers, each after a delay."""

    def __init__(self, clock: FakeClock, *asks: tuple[bool, float]) -> None:
        self.clock = clock
        self.asks = list(asks)

    async def answers(self) -> bool:
        answer, seconds = self.asks.pop(0)
        self.clock.advance(seconds)
        return answer

    async def until_silent(self) -> None:
        await wait_for_silence(self.answers, self.clock, LIMIT_S, PATIENCE_S)


async def test_silence_is_detected_at_its_limit(clock: FakeClock):
    process = Process(clock, (True, 0.1), *[(False, 2.0)] * 5)
    await process.until_silent()
    assert process.asks == []


async def test_an_answer_ends_a_silence(clock: FakeClock):
    process = Process(clock, *[(False, 2.0)] * 4, (True, 1.9), *[(False, 2.0)] * 5)
    await process.until_silent()
    assert process.asks == []


async def test_time_in_which_the_watcher_was_suspended_does_not_count(
    clock: FakeClock,
):
    # A minute each: the machine was suspended, or starved both.
    process = Process(clock, *[(False, 60.0)] * 4, (True, 60.0), *[(False, 60.0)] * 5)
    await process.until_silent()
    assert process.asks == []


async def test_refused_connections_count_by_the_time_that_passes(clock: FakeClock):
    process = Process(clock, *[(False, 0.5)] * 20)
    await process.until_silent()
    assert process.asks == []

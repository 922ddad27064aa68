"""Checks of a model by its own hooks."""

from types import SimpleNamespace
from typing import Any

import pytest

from skysail_common.clock import NEVER
from skysail_model_server.call_watchdog import CallWatchdog
from skysail_model_server.model_health import ModelHealth
from skysail_testing.clock import FakeClock


class Checked:
    """A checked model, with what its checks return and the errors of its end."""

    def __init__(self, clock: FakeClock, *results: object, **hooks: Any) -> None:
        self.clock = clock
        self.num_checks = 0
        self.results = list(results)
        self.ends: list[BaseException] = []
        self.watchdog = CallWatchdog(5.0, clock)
        hooked = SimpleNamespace(check_health=self._check, **hooks)
        self.health = ModelHealth(hooked, 10.0, clock, self.watchdog, self.ends.append)

    def _check(self) -> object:
        self.num_checks += 1
        result = self.results.pop(0) if self.results else None
        if isinstance(result, BaseException):
            raise result
        return result

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.health.check_if_due()


def test_a_healthy_model_is_checked_at_each_interval(clock):
    model = Checked(clock, None, True, 1)
    for number in range(1, 4):
        assert model.health.due_in_s() == 10.0
        model.pass_time(9.0)
        assert model.num_checks == number - 1
        assert model.health.due_in_s() == 1.0
        model.pass_time(1.0)
        assert model.num_checks == number
    assert model.ends == []
    model.clock.advance(100.0)
    assert model.health.due_in_s() == 0.0


@pytest.mark.parametrize("result", [False, 0, ValueError("lost"), SystemExit(1)])
def test_an_unhealthy_model_ends(clock, result):
    model = Checked(clock, result)
    model.pass_time(10.0)
    (error,) = model.ends
    expected = result if isinstance(result, BaseException) else f"check_health returned {result!r}"
    assert error is expected or str(error) == expected


def test_a_model_that_repairs_itself_is_checked_once_more_and_stays(clock):
    errors: list[BaseException] = []
    lost = ValueError("lost")
    model = Checked(clock, lost, None, on_unhealthy=errors.append)
    model.pass_time(10.0)
    assert errors == [lost]
    assert model.num_checks == 2
    assert model.ends == []


def test_a_model_that_cannot_repair_itself_ends_with_the_last_error(clock):
    second = ValueError("still lost")
    model = Checked(clock, ValueError("lost"), second, on_unhealthy=lambda error: None)
    model.pass_time(10.0)
    assert model.ends == [second]

    broken = OSError("no repair")

    def fails(error: BaseException) -> None:
        raise broken

    model = Checked(clock, ValueError("lost"), on_unhealthy=fails)
    model.pass_time(10.0)
    assert model.ends == [broken]
    assert model.num_checks == 1


def test_hooks_may_be_coroutine_functions(clock):
    seen: list[object] = []

    async def repair(error: BaseException) -> None:
        seen.append(error)

    async def check() -> bool:
        return bool(seen)

    ends: list[BaseException] = []
    hooked = SimpleNamespace(check_health=check, on_unhealthy=repair)
    health = ModelHealth(hooked, 10.0, clock, CallWatchdog(5.0, clock), ends.append)
    clock.advance(10.0)
    health.check_if_due()
    assert len(seen) == 1
    assert ends == []


def test_a_check_that_does_not_return_is_stuck(clock):
    stuck: list[float] = []

    class Slow:
        def check_health(self) -> None:
            clock.advance(6.0)
            stuck.append(dog.stuck_for_s())

        def predict(self, x):
            return x

    dog = CallWatchdog(5.0, clock)
    # A deployed method has the hooks of its object.
    health = ModelHealth(Slow().predict, 10.0, clock, dog, lambda error: None)
    clock.advance(10.0)
    health.check_if_due()
    assert stuck == [6.0]
    assert dog.stuck_for_s() == 0


def test_a_function_may_have_the_hook_as_an_attribute(clock):
    def function(x):
        return x

    calls: list[bool] = []
    function.check_health = lambda: calls.append(True)
    health = ModelHealth(function, 10.0, clock, CallWatchdog(5.0, clock), lambda error: None)
    clock.advance(10.0)
    health.check_if_due()
    assert calls == [True]


@pytest.mark.parametrize(("hooked", "interval_s"), [(None, 10.0), (len, 10.0), (object(), NEVER)])
def test_a_model_without_a_check_is_never_due(clock, hooked, interval_s):
    health = ModelHealth(hooked, interval_s, clock, CallWatchdog(5.0, clock), lambda error: None)
    clock.advance(1e6)
    health.check_if_due()
    assert health.due_in_s() == NEVER


def test_no_check_is_due_with_the_setting_0(clock):
    hooked = SimpleNamespace(check_health=lambda: 1 / 0)
    health = ModelHealth(hooked, NEVER, clock, CallWatchdog(5.0, clock), lambda error: None)
    clock.advance(1e6)
    health.check_if_due()
    assert health.due_in_s() == NEVER

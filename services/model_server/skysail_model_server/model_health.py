"""Checks of a model by its own `check_health`, between batches and while none waits.

check_health ──► fails ──► on_unhealthy(error) ──► check_health ──► fails: the replica ends
if the model has it     once more
"""

import logging
from collections.abc import Callable
from typing import Any

from skysail_common.clock import NEVER, Clock
from skysail_common.model_functions import Function, call_hook
from skysail_common.process.coroutine_thread import finished
from skysail_model_server.call_watchdog import CallWatchdog
from skysail_model_server.forks import ForkGuard

log = logging.getLogger(__name__)


class ModelHealth:
    """The hooks `check_health` and `on_unhealthy` of a model, called on the main thread."""

    def __init__(
        self,
        hooked: Any,
        interval_s: float,
        clock: Clock,
        watchdog: CallWatchdog,
        on_end: Callable[[BaseException], None],
    ) -> None:
        """Plan the first check.

        Args:
            hooked: Object that may have the hooks; of a method, the object that it belongs to.
            interval_s: Time between two checks; `NEVER` for none.
            clock: Clock of the interval.
            watchdog: Watchdog of checks that do not return.
            on_end: Called with the error of a model that stays unhealthy.
        """
        owner = getattr(hooked, "__self__", hooked)
        self._check = _hook(owner, "check_health")
        self._repair = _hook(owner, "on_unhealthy")
        self._interval_s = interval_s if self._check is not None else NEVER
        self._clock = clock
        self._watchdog = watchdog
        self._on_end = on_end
        self._forks = ForkGuard()
        self._next = clock() + self._interval_s

    def due_in_s(self) -> float:
        """Return the time until the next check, ≥ 0 s; `NEVER` without a check."""
        return NEVER if self._next == NEVER else max(0.0, self._next - self._clock())

    def check_if_due(self) -> None:
        """Check the model if the interval has passed since the last check."""
        if self._next == NEVER or self._clock() < self._next:
            return
        error = self._failure()
        if error is not None and self._repair is not None:
            log.warning("model is unhealthy, on_unhealthy begins", exc_info=error)
            _, failure = self._run(self._repair, error)
            error = failure or self._failure()
        if error is not None:
            self._on_end(error)
        self._next = self._clock() + self._interval_s

    def _failure(self) -> BaseException | None:
        """Return the error of one check; None for a healthy model."""
        assert self._check is not None
        result, error = self._run(self._check)
        if error is None and result is not None and not result:
            return RuntimeError(f"check_health returned {result!r}")
        return error

    def _run(self, hook: Function, *arguments: Any) -> tuple[Any, BaseException | None]:
        """Return the result and the error of a hook; one of them is None."""
        result: Any = None
        failure: BaseException | None = None
        self._watchdog.call_began(0)
        try:
            result = finished(call_hook(hook, *arguments))
        # SystemExit and CancelledError of user code are caught too; no signal raises here.
        except BaseException as error:
            failure = error
        self._watchdog.call_ended()
        self._forks.end_here(failure)
        return result, failure


def _hook(owner: Any, name: str) -> Function | None:
    hook = getattr(owner, name, None)
    return hook if callable(hook) else None

"""Continuous queries from threads, beside other steps of a test."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import skysail


class Traffic:
    """Outcomes of the queries of all threads."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.versions: list[str] = []
        self.problems: list[str] = []
        self._answered = threading.Condition()

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    def note(self, outcome: str, version: str = "", problem: str = "") -> None:
        with self._answered:
            self.outcomes[outcome] += 1
            self.versions.append(version)
            if problem:
                self.problems.append(problem)
            self._answered.notify_all()

    def wait_for_more(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until this number of further queries is answered."""
        goal = self.total + count
        with self._answered:
            assert self._answered.wait_for(lambda: self.total >= goal, timeout_s), self.outcomes


@contextmanager
def traffic(
    client: skysail.Client,
    target: str,
    value: Any,
    callers: int = 6,
    pause_s: float = 0.0,
    **options: Any,
) -> Iterator[Traffic]:
    """Send queries continuously inside the `with` block.

    Args:
        client: Client that sends the queries.
        target: Application or model.
        value: Input of each query.
        callers: Number of threads.
        pause_s: Pause of each thread after an answer, which leaves time to other processes.
        options: Options of each query.
    """
    seen = Traffic()
    done = threading.Event()

    def call() -> None:
        while not done.wait(pause_s):
            try:
                prediction = client.predict(target, value, **options)
            except skysail.SkysailError as error:
                seen.note(type(error).__name__, problem=str(error))
            else:
                seen.note(prediction.outcome, prediction.version, prediction.explanation)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        seen.wait_for_more(20)
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()

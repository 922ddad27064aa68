"""The client role in tests: an engine and the events of its links."""

import time
from collections.abc import Callable

import skysail_transport as st


class Links:
    """An engine that opens links; `until` turns it."""

    def __init__(self, has_own_thread: bool = False, **limits: object) -> None:
        self.engine = st.Engine(st.Limits(**limits), has_own_thread=has_own_thread)
        self.accepted: dict[int, st.Metadata] = {}
        self.messages: dict[int, list[bytes]] = {}
        self.closed: dict[int, tuple[int, str, st.Metadata]] = {}
        self.writable: list[int] = []

    def turn(self, timeout_ms: int = 20) -> None:
        for event in self.engine.take(timeout_ms)[1]:
            kind, id = event[:2]
            if kind == st.ACCEPTED:
                self.accepted[id] = event[2]
            elif kind == st.MESSAGE:
                self.messages.setdefault(id, []).append(event[2])
            elif kind == st.CLOSED:
                assert id not in self.closed
                self.closed[id] = event[2:]
            elif kind == st.WRITABLE:
                self.writable.append(id)
            else:
                raise AssertionError(event)

    def until(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.closed, self.engine.counters())
            self.turn()

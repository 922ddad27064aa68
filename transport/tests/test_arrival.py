"""Arrival of calls: the instant of the engine's read counts, not that of `take`."""

import time
from collections.abc import Iterator

import pytest
import skysail_transport as st
from harness import BIDI, DATA, ECHO, HEADERS, Raw, frame, headers, message

TIMEOUT_S = 20.0
TIMEOUT = (("grpc-timeout", "20S"),)


@pytest.fixture
def engine() -> Iterator[st.Engine]:
    # An engine with its own thread reads without a `take`.
    engine = st.Engine(has_own_thread=True)
    yield engine
    engine.close()


def until(engine: st.Engine, name: str, count: int) -> None:
    end = time.monotonic() + 5
    while engine.counters()[name] < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def take_all(engine: st.Engine) -> tuple[list, list]:
    calls, events = engine.take(1000)
    return list(calls), list(events)


def test_a_call_is_as_old_as_its_last_byte_and_its_deadline_as_its_headers(
    engine: st.Engine,
) -> None:
    raw = Raw(engine.listen("127.0.0.1:0", unary=[ECHO]))
    before = time.monotonic()
    raw.send(frame(HEADERS, 4, 1, headers(ECHO, TIMEOUT)))
    until(engine, "open_calls", 1)
    between = time.monotonic()
    raw.send(frame(DATA, 1, 1, message(b"x")))
    until(engine, "calls", 1)
    after = time.monotonic()
    ((_, _, _, deadline, _, arrival),), _ = take_all(engine)
    assert before <= deadline - TIMEOUT_S <= between <= arrival <= after
    raw.close()


def test_a_message_of_a_stream_is_as_old_as_its_last_byte(engine: st.Engine) -> None:
    raw = Raw(engine.listen("127.0.0.1:0", streams=[BIDI]))
    raw.send(frame(HEADERS, 4, 1, headers(BIDI)))
    sent, seen = [], []
    for number in range(1, 3):
        sent.append(time.monotonic())
        raw.send(frame(DATA, 0, 1, message(b"x")))
        until(engine, "messages_in", number)
        seen.append(time.monotonic())
    _, events = take_all(engine)
    arrivals = [event[3] for event in events if event[0] == st.MESSAGE]
    assert sent[0] <= arrivals[0] <= seen[0] <= sent[1] <= arrivals[1] <= seen[1]
    raw.close()

"""Large messages: copied in parts, and bounded together without harm to complete ones."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import grpc
import pytest
import skysail_transport as st
from harness import (
    BIDI,
    DATA,
    ECHO,
    FAIL,
    HEADERS,
    WINDOW,
    Raw,
    Server,
    frame,
    headers,
    message,
)  # fmt: skip

Hoard: TypeAlias = Callable[..., list[Raw]]
Connect: TypeAlias = Callable[..., grpc.Channel]

MIB = 1 << 20
PART = 16_000


def upload(size: int, stream: int = 1, path: str = FAIL, num_missing: int = 0) -> Iterator[bytes]:
    """Return the frames of a call, without the last bytes of its message if `num_missing`."""
    body = message(bytes(size))
    yield frame(HEADERS, 4, stream, headers(path))
    end = len(body) - num_missing
    for at in range(0, end, PART):
        is_last = at + PART >= end and not num_missing
        yield frame(DATA, int(is_last), stream, body[at : min(at + PART, end)])


def with_room(port: int) -> Raw:
    raw = Raw(port)
    raw.send(frame(WINDOW, 0, 0, b"\x01\x00\x00\x00"))
    return raw


@pytest.fixture
def hoard(serve: Callable[..., Server]) -> Iterator[Hoard]:
    raws: list[Raw] = []

    def start(
        server: Server, num_connections: int, num_calls: int, size: int = MIB - 100
    ) -> list[Raw]:
        """Send nearly all of some messages on each of some connections."""
        for _ in range(num_connections):
            raw = with_room(server.port)
            raws.append(raw)
            for number in range(num_calls):
                for part in upload(size, 1 + 2 * number, num_missing=1):
                    assert raw.send(part)
        return raws

    yield start
    for raw in raws:
        raw.close()


def test_connections_that_come_one_by_one_hold_no_more_than_the_bound(
    serve: Callable[..., Server], hoard: Hoard
) -> None:
    server = serve(max_untaken_bytes=8 * MIB)
    hoard(server, 10, 16, MIB // 4)
    server.until(lambda: server.engine.counters()["bytes_in"] > 40 * MIB)
    counters = server.engine.counters()
    assert 6 * MIB < counters["untaken_bytes"] <= 8 * MIB
    assert counters["connections"] == 10


def test_a_peer_below_the_others_finishes_even_if_they_never_do(
    serve: Callable[..., Server], hoard: Hoard, connect: Connect
) -> None:
    server = serve(max_untaken_bytes=8 * MIB)
    hoarders = hoard(server, 4, 2)
    server.until(lambda: server.engine.counters()["untaken_bytes"] > 7 * MIB)
    large = bytes(3 * MIB // 2)
    assert connect(server.address).unary_unary(ECHO)(large, timeout=20) == large
    assert "8" in [status for raw in hoarders for status in raw.statuses(0.1)]


def test_slow_uploads_of_many_end_and_most_of_the_bound_is_used(
    serve: Callable[..., Server],
) -> None:
    # The uploads would deadlock if incomplete messages were kept and no more bytes read.
    server = serve(max_untaken_bytes=8 * MIB)
    raws = [with_room(server.port) for _ in range(40)]
    for parts in zip(*(upload(MIB - 100) for _ in raws), strict=True):
        for raw, part in zip(raws, parts, strict=True):
            # A refused upload is reset after its answer, and its later bytes are discarded.
            assert raw.send(part)
    statuses = [raw.status() for raw in raws]
    assert set(statuses) == {"3", "8"}
    assert statuses.count("3") >= 6
    server.until(lambda: server.engine.counters()["untaken_bytes"] == 0)
    assert server.engine.counters()["connections"] == len(raws)
    for raw in raws:
        raw.close()


def test_results_on_a_link_survive_a_full_bound_of_clients(
    serve: Callable[..., Server], hoard: Hoard
) -> None:
    model = serve()
    server = serve(max_untaken_bytes=4 * MIB, max_link_message_bytes=64 * MIB)
    hoard(server, 4, 1)
    link = server.engine.open(model.address, BIDI)
    result = bytes(16 * MIB)
    server.engine.flush([], [(link, result)])
    # The harness echoes, so that the model gets its own echo again.
    server.until(lambda: model.engine.counters()["messages_in"] >= 2)
    assert server.engine.counters()["refused"] == 0


@contextlib.contextmanager
def inline_engine() -> Iterator[tuple[st.Engine, str]]:
    engine = st.Engine()
    yield engine, f"127.0.0.1:{engine.listen('127.0.0.1:0', unary=[ECHO], streams=[BIDI])}"
    engine.close()


def test_a_large_message_is_copied_over_several_turns(connect: Connect) -> None:
    large = bytes(20 * MIB)
    with inline_engine() as (engine, address):
        upload, other = (connect(address).unary_unary(ECHO) for _ in range(2))
        answers = [upload.future(large, timeout=20)]
        while not engine.counters()["calls"]:
            calls, _ = engine.take(1000)
            assert not calls
        # The message is complete, and 4 MiB a turn are copied; small ones do not wait for it.
        answers.append(other.future(b"small", timeout=20))
        num_turns = 1
        while not all(answer.done() for answer in answers):
            calls, _ = engine.take(100)
            engine.flush([(call[0], call[2]) for call in calls])
            num_turns += not any(call[2] == large for call in calls)
        assert [answer.result() for answer in answers] == [large, b"small"]
        assert num_turns >= len(large) / (4 * MIB)


def test_later_messages_of_a_stream_stay_behind_a_large_one(connect: Connect) -> None:
    sent = [bytes(9 * MIB), b"small"]
    with inline_engine() as (engine, address):
        call = connect(address).stream_stream(BIDI)(iter(sent), timeout=20)
        kinds, taken = [], []
        while st.HALF_CLOSED not in kinds:
            for kind, id, *rest in engine.take(1000)[1]:
                kinds.append(kind)
                if kind == st.MESSAGE:
                    taken.append(rest[0])
                    engine.acknowledge(id, len(rest[0]))
        assert taken == sent
        assert kinds == [st.OPENED, st.MESSAGE, st.MESSAGE, st.HALF_CLOSED]
        call.cancel()


def test_a_call_that_ends_during_its_copy_comes_before_its_end(
    connect: Connect,
) -> None:
    with inline_engine() as (engine, address):
        call = connect(address).unary_unary(ECHO).future(bytes(20 * MIB), timeout=20)
        while not engine.counters()["calls"]:
            engine.take(1000)
        call.cancel()
        seen: list[str] = []
        while "cancelled" not in seen:
            calls, events = engine.take(1000)
            seen += ["call" for _ in calls] + ["cancelled" for _ in events]
        assert seen == ["call", "cancelled"]

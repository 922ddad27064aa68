import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.server import ServerState

from skysail_frontend.ingress.http_connection import HttpConfig, HttpConnection
from skysail_frontend.ingress.http_limits import MIB, HttpLimits, HttpMemory
from skysail_testing.clock import FakeClock, FakeLoop
from unit.frontend.parts import turns

LIMITS = HttpLimits(
    keep_alive_s=75,
    head_timeout_s=10,
    body_timeout_s=60,
    drain_idle_s=5,
    max_connections=3,
    max_requests=3,
    max_head_bytes=1000,
    max_headers=10,
)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


UPGRADE = (
    # Java's client sends such a head.
    b"POST /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 4\r\n"
    b"Host: localhost:1337\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    b"Upgrade: h2c\r\nUser-Agent: Java-http-client/21\r\n\r\n"
)


class Transport(asyncio.Transport):
    """A transport that keeps its output; like uvloop's, it fails after its close."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.is_closed = False
        self.is_aborted = False
        self.is_lost = False
        self.is_reading = True

    def write(self, data: Any) -> None:
        if self.is_lost:
            raise RuntimeError("the handler is closed")
        self.written += data

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Loop(FakeLoop):
    """A loop with the time of the fake clock and with real tasks."""

    def create_task(self, awaitable: Any) -> "asyncio.Task[Any]":
        return asyncio.get_running_loop().create_task(awaitable)


class Server:
    """Connections to an application that answers with the length of the body."""

    def __init__(self, limits: HttpLimits = LIMITS) -> None:
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.arrivals: list[float] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.config = HttpConfig(
            self._answer, log_config=None, access_log=False, interface="asgi3", ws="none"
        )
        self.config.limits = limits
        self.config.timeout_keep_alive = limits.keep_alive_s
        self.config.memory = HttpMemory(MIB)
        self.config.clock = self.clock
        self.config.busy_app = Response("busy", 503)
        self.config.load()
        self.state = ServerState()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.arrivals.append(scope["arrival"])
        body = await Request(scope, receive).body()
        await self.may_answer.wait()
        await Response(str(len(body)))(scope, receive, send)

    def connect(self) -> tuple[HttpConnection, Transport]:
        connection = HttpConnection(self.config, self.state, {}, self.loop)  # type: ignore[arg-type]
        transport = Transport()
        connection.connection_made(transport)
        return connection, transport


def statuses(transport: Transport) -> list[int]:
    lines = transport.written.split(b"\r\n")
    return [int(line.split()[1]) for line in lines if b"HTTP/1.1 " in line]


def error(transport: Transport) -> str:
    return json.loads(transport.written.rpartition(b"\r\n\r\n")[2])["error"]


async def test_an_idle_connection_closes_after_its_keep_alive():
    server = Server()
    connection, transport = server.connect()
    connection.data_received(GET)
    await turns()
    assert statuses(transport) == [200]
    server.loop.advance(74)
    assert not transport.is_closed
    connection.data_received(GET)
    await turns()
    server.loop.advance(74)
    assert not transport.is_closed
    server.loop.advance(2)
    assert transport.is_closed
    assert statuses(transport) == [200, 200]


async def test_empty_lines_do_not_keep_a_connection_alive():
    server = Server()
    connection, transport = server.connect()
    connection.data_received(GET)
    await turns()
    connection.data_received(b"\r\n")
    server.loop.advance(76)
    assert transport.is_closed


async def test_a_silent_connection_closes_without_an_answer():
    server = Server()
    _, transport = server.connect()
    server.loop.advance(9)
    assert not transport.is_closed
    server.loop.advance(2)
    assert (transport.is_closed, transport.written) == (True, b"")


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_head_that_does_not_end_is_refused_in_time(is_first):
    server = Server()
    connection, transport = server.connect()
    if not is_first:
        connection.data_received(GET)
        await turns()
        server.loop.advance(20)
        transport.written = b""
    for byte in b"GET / HT":
        connection.data_received(bytes([byte]))
        server.loop.advance(1)
    server.loop.advance(3)
    assert statuses(transport) == [408]
    assert error(transport) == "cannot read the request: its head did not come within 10 s"
    # The connection discards input until the client has had time to read.
    connection.data_received(GET)
    assert not transport.is_closed
    server.loop.advance(3)
    assert transport.is_closed
    assert statuses(transport) == [408]


async def test_a_body_that_does_not_end_is_refused_in_time():
    server = Server()
    connection, transport = server.connect()
    connection.data_received(POST)
    for _ in range(3):
        server.loop.advance(19)
        connection.data_received(b"a")
        await turns()
    assert transport.written == b""
    server.loop.advance(4)
    await turns()
    assert statuses(transport) == [408]
    assert "body did not come within 60 s" in error(transport)
    assert not server.state.tasks


async def test_a_complete_request_may_take_any_time():
    server = Server()
    server.may_answer.clear()
    connection, transport = server.connect()
    connection.data_received(POST + b"abcd")
    await turns()
    server.loop.advance(600)
    assert (transport.is_closed, transport.written) == (False, b"")
    server.may_answer.set()
    await turns()
    assert transport.written.endswith(b"\r\n\r\n4")


async def test_a_body_that_continues_after_the_answer_ends_the_connection():
    server = Server(replace(LIMITS, max_requests=0))
    connection, transport = server.connect()
    connection.data_received(POST + b"a")
    await turns()
    assert statuses(transport) == [503]
    server.loop.advance(61)
    assert transport.is_aborted
    assert statuses(transport) == [503]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 2000,
        b"GET / HTTP/1.1\r\nx: " + b"a" * 2000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: 1\r\n" % i for i in range(20)),
        b"".join([CHUNKED, b"0\r\n", *(b"x%d: 1\r\n" % i for i in range(20)), b"\r\n"]),
    ],
)
async def test_a_head_beyond_the_limits_is_refused(head):
    connection, transport = Server().connect()
    connection.data_received(head)
    await turns()
    assert statuses(transport) == [431]
    assert error(transport).startswith("cannot take the request: ")


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nx: ", CHUNKED + b"1;", GET + b"\r\n"])
async def test_input_that_the_parser_keeps_or_skips_is_bounded(begin):
    connection, transport = Server().connect()
    connection.data_received(begin)
    await turns()
    filler = b"\r\n" * 100 if begin.startswith(GET) else b"a" * 200
    for _ in range(6):
        connection.data_received(filler)
    assert 431 in statuses(transport)
    assert error(transport) == (
        "cannot take the request: its head is larger than 1000 bytes (http_max_head_kib)"
    )


async def test_a_body_in_tiny_parts_is_refused_but_not_in_larger_parts():
    connection, transport = Server().connect()
    connection.data_received(CHUNKED + b"1\r\na\r\n" * 2000)
    await turns()
    assert statuses(transport) == [400]
    assert error(transport).endswith("in parts of less than 64 bytes; send larger chunks")
    connection, transport = Server().connect()
    connection.data_received(CHUNKED + (b"40\r\n" + b"a" * 64 + b"\r\n") * 2000 + b"0\r\n\r\n")
    await turns()
    assert transport.written.endswith(b"\r\n\r\n128000")


@pytest.mark.parametrize("garbage", [b"\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET\r\n"])
async def test_input_that_is_not_http_is_refused(garbage):
    connection, transport = Server().connect()
    connection.data_received(garbage)
    assert statuses(transport) == [400]
    assert error(transport).startswith("cannot read the request: ")


async def test_a_refusal_does_not_overtake_the_answer_to_the_request_before():
    server = Server()
    server.may_answer.clear()
    connection, transport = server.connect()
    connection.data_received(POST + b"abcd" + b"\x00garbage")
    await turns()
    assert transport.written == b""
    server.may_answer.set()
    await turns()
    assert statuses(transport) == [200]
    assert b"connection: close" in transport.written
    assert transport.is_closed


async def test_pipelined_requests_are_answered_up_to_a_limit():
    server = Server(replace(LIMITS, max_requests=100))
    connection, transport = server.connect()
    connection.data_received(GET * 5000)
    for _ in range(20):
        await turns()
    count = len(statuses(transport))
    assert statuses(transport) == [200] * count
    assert 16 <= count <= 18
    assert transport.written.count(b"connection: close") == 1
    assert transport.is_closed


@pytest.mark.parametrize("target", [b"x:1", b"http://x/", b"/"])
@pytest.mark.parametrize("before", [b"", GET])
async def test_proxy_requests_are_refused(before, target):
    connection, transport = Server().connect()
    if before:
        connection.data_received(before)
        await turns()
    connection.data_received(b"CONNECT %b HTTP/1.1\r\nhost: x\r\n\r\nabc" % target)
    assert statuses(transport) == [200, 400] if before else [400]
    assert error(transport) == "cannot serve CONNECT: this server is not a proxy"


async def test_a_target_that_is_not_a_path_is_refused():
    connection, transport = Server().connect()
    connection.data_received(b"GET x HTTP/1.1\r\nhost: x\r\n\r\n")
    assert statuses(transport) == [400]
    assert error(transport).startswith("cannot read the request: ")


@pytest.mark.parametrize("num_pieces", [1, 2, 400])
@pytest.mark.parametrize("num_requests", [1, 5])
async def test_an_offer_of_another_protocol_is_ignored(num_pieces, num_requests):
    server = Server(replace(LIMITS, max_requests=100))
    connection, transport = server.connect()
    data = (UPGRADE + b"abcd") * num_requests + POST + b"abcd"
    step = -(-len(data) // num_pieces)
    for begin in range(0, len(data), step):
        connection.data_received(data[begin : begin + step])
    for _ in range(num_requests):
        await turns()
    assert statuses(transport) == [200] * (num_requests + 1)
    assert transport.written.count(b"\r\n\r\n4") == num_requests + 1
    assert not transport.is_closed


async def test_offers_of_other_protocols_are_limited_like_pipelined_requests():
    server = Server(replace(LIMITS, max_requests=100))
    connection, transport = server.connect()
    connection.data_received((UPGRADE + b"abcd") * 1000)
    for _ in range(20):
        await turns()
    assert set(statuses(transport)) == {200}
    assert transport.is_closed


async def test_a_client_that_left_gets_no_answer(caplog):
    server = Server(replace(LIMITS, max_requests=100))
    server.may_answer.clear()
    connection, transport = server.connect()
    connection.data_received((POST + b"abcd") * 5)
    await turns()
    connection.connection_lost(None)
    transport.is_lost = True
    server.may_answer.set()
    await turns()
    assert (transport.written, caplog.text, len(server.arrivals)) == (b"", "", 1)
    assert not server.state.tasks


async def test_connections_beyond_the_limit_are_refused():
    server = Server()
    connections = [server.connect() for _ in range(4)]
    assert [transport.written[9:12] for _, transport in connections] == [b"", b"", b"", b"503"]
    assert b"retry-after: 1\r\n" in connections[3][1].written
    connections[0][0].connection_lost(None)
    connections[3][0].connection_lost(None)
    _, transport = server.connect()
    assert transport.written == b""


async def test_requests_beyond_the_limit_are_refused():
    server = Server(replace(LIMITS, max_connections=10))
    server.may_answer.clear()
    connections = [server.connect() for _ in range(4)]
    for connection, _ in connections:
        connection.data_received(POST + b"abcd")
    await turns()
    assert [statuses(transport) for _, transport in connections] == [[], [], [], [503]]
    server.may_answer.set()
    await turns()
    connections[3][0].data_received(GET)
    await turns()
    assert [statuses(transport)[-1] for _, transport in connections] == [200] * 4


async def test_the_arrival_of_a_request_is_the_end_of_its_head():
    server = Server()
    connection, _ = server.connect()
    connection.data_received(POST[:10])
    server.clock.advance(2)
    connection.data_received(POST[10:])
    arrival = server.clock()
    server.clock.advance(3)
    connection.data_received(b"abcd")
    await turns()
    assert server.arrivals == [arrival]


async def test_an_unread_answer_counts_until_it_is_dropped():
    server = Server()
    connection, transport = server.connect()
    transport.unsent = 1000
    connection.pause_writing()
    assert server.config.memory.num_unread_bytes == 1000
    connection.resume_writing()
    assert server.config.memory.num_unread_bytes == 0
    connection.pause_writing()
    server.loop.advance(61)
    assert transport.is_aborted
    connection.connection_lost(None)
    assert server.config.memory.num_unread_bytes == 0


async def test_unread_answers_of_all_connections_are_bounded():
    server = Server()
    transports = []
    for _ in range(3):
        connection, transport = server.connect()
        transport.unsent = MIB // 2
        connection.pause_writing()
        transports.append(transport)
    assert [transport.is_aborted for transport in transports] == [False, False, True]


async def test_bodies_that_fill_the_memory_do_not_cut_off_answers():
    server = Server()
    connection, transport = server.connect()
    with server.config.memory.request() as held:
        held.add(MIB)
        held.add(16 * 1024)
        transport.unsent = 1000
        connection.pause_writing()
    assert not transport.is_aborted


async def test_a_connection_ends_with_an_answer_at_its_age():
    server = Server(replace(LIMITS, max_connection_age_s=50))
    connection, transport = server.connect()
    for seconds, is_closed in [(0, False), (44, False), (12, True)]:
        server.loop.advance(seconds)
        connection.data_received(GET)
        await turns()
        assert transport.is_closed is is_closed
    assert statuses(transport) == [200, 200, 200]
    assert transport.written.count(b"connection: close") == 1


async def test_connections_made_together_do_not_end_together():
    server = Server(replace(LIMITS, max_connection_age_s=50, max_connections=200))
    connections = [server.connect() for _ in range(100)]
    for seconds in (0, 50):
        server.loop.advance(seconds)
        for connection, _ in connections:
            connection.data_received(GET)
            await turns()
    count = sum(transport.is_closed for _, transport in connections)
    assert 10 < count < 90


# Drain.


@pytest.fixture
def drained() -> Callable[[Server], None]:
    def drain(server: Server) -> None:
        server.config.is_draining = True
        for connection in list(server.state.connections):
            connection.shutdown()

    return drain


async def test_a_drain_announces_the_close_of_kept_connections(drained):
    server = Server()
    connections = [server.connect() for _ in range(2)]
    for connection, _ in connections:
        connection.data_received(GET)
    await turns()
    drained(server)
    (asking, answered), (_, idle) = connections
    server.loop.advance(4)
    assert not answered.is_closed
    asking.data_received(GET)
    await turns()
    assert statuses(answered) == [200, 200]
    assert answered.written.count(b"connection: close") == 1
    assert answered.is_closed
    assert not idle.is_closed
    server.loop.advance(2)
    assert idle.is_closed


async def test_a_drain_answers_requests_in_flight_and_late_connections(drained):
    server = Server()
    server.may_answer.clear()
    connection, transport = server.connect()
    connection.data_received(POST + b"abcd")
    await turns()
    drained(server)
    late, answered_late = server.connect()
    late.data_received(GET)
    server.loop.advance(9)
    assert not transport.is_closed
    server.may_answer.set()
    await turns()
    for each in (transport, answered_late):
        assert statuses(each) == [200]
        assert b"connection: close" in each.written
        assert each.is_closed

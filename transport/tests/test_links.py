"""The client role, against grpc.aio and against an engine."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skysail_transport as st
from harness import BIDI, REPEAT, SINK, Server, rss_bytes
from links import Links

AIO_SERVER = textwrap.dedent(
    """
    import asyncio, sys
    import grpc, grpc.aio

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details):
            async def echo(messages, context):
                await context.send_initial_metadata((("x-hello", "you"),))
                seen = dict(context.invocation_metadata())
                async for message in messages:
                    if message == b"show":
                        message = seen["x-a"].encode() + seen["x-b-bin"]
                    if message == b"fail":
                        context.set_trailing_metadata((("x-why-bin", b"\\x00\\xff"),))
                        await context.abort(grpc.StatusCode.ABORTED, "naïve ✓")
                    yield message
            if details.method == "/test.Echo/Bidi":
                return grpc.stream_stream_rpc_method_handler(echo)

    async def main():
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        server = grpc.aio.server(options=options, compression=grpc.Compression.Gzip)
        server.add_generic_rpc_handlers((Handlers(),))
        port = server.add_insecure_port(sys.argv[1])
        await server.start()
        print(port, flush=True)
        await server.wait_for_termination()

    asyncio.run(main())
    """
)


@pytest.fixture
def links(has_own_thread: bool) -> Iterator[Links]:
    links = Links(has_own_thread)
    yield links
    links.engine.close()


@pytest.fixture
def aio_server() -> Iterator[tuple[str, subprocess.Popen]]:
    command = [sys.executable, "-c", AIO_SERVER, "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"127.0.0.1:{int(process.stdout.readline())}", process
    process.kill()
    process.wait()
    process.stdout.close()


def test_echo_by_grpc_aio(links: Links, aio_server: tuple[str, subprocess.Popen]) -> None:
    metadata = [("x-a", "1"), ("x-b-bin", b"\x00\x01")]
    id = links.engine.open(aio_server[0], BIDI, metadata)
    links.until(lambda: id in links.accepted)
    assert links.accepted[id].get("x-hello") == "you"
    big = bytes(range(256)) * 40_000
    links.engine.flush([], [(id, b"show"), (id, b"one"), (id, big)])
    links.until(lambda: len(links.messages.get(id, [])) == 3)
    assert links.messages[id] == [b"1\x00\x01", b"one", big]
    links.engine.finish_sending(id)
    links.until(lambda: id in links.closed)
    assert links.closed[id][:2] == (0, "")
    links.until(lambda: links.engine.counters()["connections"] == 0)


def test_error_by_grpc_aio(links: Links, aio_server: tuple[str, subprocess.Popen]) -> None:
    id = links.engine.open(aio_server[0], BIDI, [("x-a", ""), ("x-b-bin", b"")])
    links.engine.flush([], [(id, b"fail")])
    links.until(lambda: id in links.closed)
    status, text, trailers = links.closed[id]
    assert (status, text) == (10, "naïve ✓")
    assert trailers.as_dict() == {"x-why-bin": b"\x00\xff"}
    id = links.engine.open(aio_server[0], "/test.Echo/Nothing")
    links.until(lambda: id in links.closed)
    assert links.closed[id][0] == 12


def test_a_killed_peer_is_noticed(links: Links, aio_server: tuple[str, subprocess.Popen]) -> None:
    address, process = aio_server
    id = links.engine.open(address, BIDI, [("x-a", ""), ("x-b-bin", b"")])
    links.until(lambda: id in links.accepted)
    process.send_signal(signal.SIGKILL)
    links.until(lambda: id in links.closed)
    status, text, _ = links.closed[id]
    assert status == 14
    assert address in text
    assert links.engine.counters()["open_calls"] == 0


def test_echo_by_an_engine(links: Links, server: Server) -> None:
    id = links.engine.open(server.address, BIDI)
    links.until(lambda: id in links.accepted)
    messages = [bytes([i % 256]) * (i * 37) for i in range(1000)]
    links.engine.flush([], [(id, message) for message in messages])
    links.until(lambda: len(links.messages.get(id, [])) == 1000)
    assert links.messages[id] == messages
    links.engine.finish_sending(id)
    links.until(lambda: id in links.closed)
    status, _, trailers = links.closed[id]
    assert status == 0
    assert trailers.as_dict() == {"x-end": "yes"}
    assert server.engine.counters()["open_calls"] == 0


def test_large_messages_both_ways_at_once(links: Links, server: Server) -> None:
    # Both sides have full sockets at the same time, and must keep reading.
    id = links.engine.open(server.address, BIDI)
    links.engine.flush([], [(id, bytes(10_000_000)) for _ in range(8)])
    links.until(lambda: len(links.messages.get(id, [])) == 8, 30)
    assert links.engine.unsent(id) == 0


def test_errors_by_an_engine(links: Links, server: Server) -> None:
    one = links.engine.open(server.address, BIDI)
    other = links.engine.open(server.address, "/test.Echo/Nothing")
    links.engine.flush([], [(one, b"fail")])
    links.until(lambda: len(links.closed) == 2)
    assert links.closed[one][:2] == (5, "no such thing")
    assert links.closed[other][0] == 12


def test_a_peer_that_closes(links: Links, server: Server) -> None:
    id = links.engine.open(server.address, BIDI)
    links.until(lambda: id in links.accepted)
    server.engine.close()
    links.until(lambda: id in links.closed)
    assert links.closed[id][0] == 14
    assert "lost the connection" in links.closed[id][1]


def test_cancel(links: Links, server: Server) -> None:
    id = links.engine.open(server.address, BIDI)
    links.until(lambda: id in links.accepted)
    links.engine.cancel(id)
    server.until(lambda: len(server.cancelled) == 1)
    links.until(lambda: links.engine.counters()["connections"] == 0)
    assert id not in links.closed
    links.engine.flush([], [(id, b"late")])
    links.engine.cancel(id)


def test_no_listener(links: Links, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        ids = [
            links.engine.open(f"127.0.0.1:{port}", BIDI),
            links.engine.open(f"localhost:{port}", BIDI),
            links.engine.open(f"unix:{tmp_path}/nothing", BIDI),
            links.engine.open("no-such-host.invalid:1", BIDI),
        ]
        links.until(lambda: len(links.closed) == len(ids))
    assert all(links.closed[id][0] == 14 for id in ids)
    assert "refused" in links.closed[ids[0]][1]
    assert "unix:" in links.closed[ids[2]][1]


def test_names_are_looked_up(links: Links, server: Server) -> None:
    id = links.engine.open(f"localhost:{server.port}", BIDI)
    links.engine.flush([], [(id, b"hello")])
    links.until(lambda: links.messages.get(id) == [b"hello"])


def test_a_peer_that_accepts_and_says_nothing(has_own_thread: bool) -> None:
    links = Links(has_own_thread, keepalive_s=0.2, keepalive_timeout_s=0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin = time.monotonic()
        id = links.engine.open(f"127.0.0.1:{listener.getsockname()[1]}", BIDI)
        links.until(lambda: id in links.closed)
        assert time.monotonic() - begin < 3
    assert links.closed[id][0] == 14
    links.engine.close()


def test_a_slow_peer_holds_the_sender(links: Links, server: Server) -> None:
    id = links.engine.open(server.address, SINK)
    links.until(lambda: id in links.accepted)
    num_sent = 0
    while links.engine.unsent(id) < 1 << 20:
        links.engine.flush([], [(id, bytes(100_000))])
        links.turn(1)
        num_sent += 1
        assert num_sent < 200
    assert links.writable == []
    # The acknowledgement lets the stream continue, which an event reports.
    for _ in range(num_sent):
        server.engine.acknowledge(next(iter(server._paths)), 100_000)
    links.until(lambda: links.writable == [id])
    assert links.engine.unsent(id) <= 512 << 10


def test_a_slow_reader_holds_the_peer(server: Server) -> None:
    before = rss_bytes()
    links = Links(has_own_thread=True)
    id = links.engine.open(server.address, REPEAT)
    links.engine.flush([], [(id, b"2000x100000")])
    time.sleep(0.7)
    counters = links.engine.counters()
    assert counters["untaken_bytes"] < 4 << 20
    assert rss_bytes() - before < 64 << 20
    links.until(lambda: id in links.closed, 20)
    assert len(links.messages[id]) == 2000
    links.engine.close()


def test_too_much_for_a_peer_that_does_not_read(server: Server) -> None:
    links = Links(max_unsent_bytes=1 << 20)
    id = links.engine.open(server.address, SINK)
    links.until(lambda: id in links.accepted)
    for _ in range(100):
        links.engine.flush([], [(id, bytes(100_000))])
    links.until(lambda: id in links.closed)
    assert links.closed[id][0] == 8
    assert links.engine.counters()["unsent_bytes"] < 1 << 20
    links.engine.close()


@pytest.mark.parametrize("arguments", [("nonsense", BIDI), ("127.0.0.1:1", "no slash"),
                                       ("127.0.0.1:1", "/a b"), ("unix:", BIDI)])  # fmt: skip
def test_links_with_invalid_arguments(links: Links, arguments: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"neither|cannot open"):
        links.engine.open(*arguments)


def test_unix_sockets(serve: Callable[..., Server], links: Links, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/echo"
    first = serve(address=address)
    assert first.port == 0
    id = links.engine.open(address, BIDI)
    links.engine.flush([], [(id, b"hello")])
    links.until(lambda: links.messages.get(id) == [b"hello"])
    other = st.Engine()
    with pytest.raises(OSError, match="in use"):
        other.listen(address)
    first.engine.close()
    assert not os.path.exists(f"{tmp_path}/echo")
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(f"{tmp_path}/echo")
    other.listen(address)
    other.close()


def test_a_message_with_the_end_of_its_stream_is_not_counted_as_held(has_own_thread: bool) -> None:
    server, client = st.Engine(), st.Engine(has_own_thread=has_own_thread)
    port = server.listen("127.0.0.1:0", streams=["/a/b"])
    for _ in range(5):
        client.open(f"127.0.0.1:{port}", "/a/b")
    num_closed, end = 0, time.monotonic() + 20
    while num_closed < 5 and time.monotonic() < end:
        for kind, id, *_ in server.take(10)[1]:
            if kind == st.OPENED:
                # The message arrives in parts, and the last is followed by the end of the stream.
                server.flush([(id, 0, "", None, b"x" * 300_000)])
        num_closed += sum(kind == st.CLOSED for kind, *_ in client.take(10)[1])
    assert num_closed == 5
    client.take()
    assert client.counters()["untaken_bytes"] == 0
    server.close()
    client.close()


def test_a_link_of_an_idle_engine_has_the_full_handshake_timeout(
    server: Server,
) -> None:
    links = Links(handshake_timeout_s=0.2, keepalive_s=0.0)
    # No event makes the engine read the clock during the pause.
    time.sleep(0.3)
    id = links.engine.open(server.address, BIDI)
    links.until(lambda: id in links.accepted)
    links.engine.close()

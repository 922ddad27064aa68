"""Life-cycle: listening, drain, loss, timeouts, health, and leftovers."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
import skysail_transport as st
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import (
    BIDI,
    BLOB,
    ECHO,
    GOAWAY,
    PREFACE,
    REPEAT,
    SLEEP,
    Raw,
    Server,
    goaway_codes,
    rss_bytes,
)
from links import Links


def test_drain_under_load_loses_no_call(server: Server) -> None:
    refusals: list[grpc.aio.AioRpcError] = []

    async def run() -> int:
        num_answered = 0
        async with grpc.aio.insecure_channel(server.address) as channel:
            sleep = channel.unary_unary(SLEEP)

            async def call() -> None:
                nonlocal num_answered
                try:
                    while True:
                        assert await sleep(b"0.01", timeout=10) == b"0.01"
                        num_answered += 1
                except grpc.aio.AioRpcError as error:
                    refusals.append(error)

            callers = [asyncio.create_task(call()) for _ in range(32)]
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.engine.drain)
            await asyncio.wait_for(asyncio.gather(*callers), 15)
        return num_answered

    num_answered = asyncio.run(run())
    assert len(refusals) == 32
    # Calls fail only because the listener is gone, never after they were accepted.
    assert {error.code() for error in refusals} == {grpc.StatusCode.UNAVAILABLE}
    assert all("onnect" in (error.details() or "") for error in refusals)
    assert num_answered == server.num_calls
    server.until(lambda: server.engine.counters()["connections"] == 0)


def test_a_call_under_way_ends_after_drain(server: Server, channel: grpc.Channel) -> None:
    call = channel.unary_unary(SLEEP).future(b"0.5", timeout=5)
    server.until(lambda: server.num_calls == 1)
    server.engine.drain()
    assert call.result() == b"0.5"


def test_close_during_a_call(server: Server, channel: grpc.Channel) -> None:
    call = channel.unary_unary(SLEEP).future(b"5", timeout=5)
    server.until(lambda: server.num_calls == 1)
    server.engine.close()
    server.engine.close()
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert server.engine.counters()["calls"] == 1
    with pytest.raises(RuntimeError):
        server.engine.listen("127.0.0.1:0")
    with pytest.raises(ValueError, match="closed"):
        server.engine.fileno()


def test_a_killed_client_cancels(server: Server) -> None:
    code = textwrap.dedent(
        f"""
        import grpc
        channel = grpc.insecure_channel("{server.address}")
        channel.unary_unary("{SLEEP}")(b"30")
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    server.until(lambda: server.num_calls == 1, 15)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.until(lambda: len(server.cancelled) == 1)


def test_health(server: Server, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    server.engine.set_health("", 1)
    server.engine.set_health("model", 2)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
    assert stub.Check(health_pb2.HealthCheckRequest(service="model"), timeout=5).status == 2
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_long_names_are_not_watched(server: Server, channel: grpc.Channel) -> None:
    server.engine.set_health("", 1)
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="x" * 2000)
    for call in (lambda: stub.Check(request, timeout=5), lambda: next(stub.Watch(request))):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("broken", [b"\x0a\x05", b"\x0a\x01\xff", b"\x0b"])
def test_malformed_health_checks_are_invalid_arguments(
    server: Server, channel: grpc.Channel, broken: bytes
) -> None:
    server.engine.set_health("", 1)
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
    for call in (lambda: check(broken, timeout=5), lambda: next(watch(broken, timeout=5))):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "HealthCheckRequest" in caught.value.details()


def test_health_is_watched(server: Server, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    server.engine.set_health("model", 2)
    known = stub.Watch(health_pb2.HealthCheckRequest(service="model"), timeout=10)
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=10)
    assert next(known).status == 2
    assert next(unknown).status == 3
    server.engine.set_health("model", 1)
    server.engine.set_health("other", 1)
    assert next(known).status == 1
    assert next(unknown).status == 1
    known.cancel()
    server.engine.drain()
    with pytest.raises(grpc.RpcError) as caught:
        next(unknown)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_health_while_python_is_busy() -> None:
    code = textwrap.dedent(
        """
        import re, skysail_transport as st
        engine = st.Engine(has_own_thread=True)
        engine.set_health("", 1)
        print(engine.listen("127.0.0.1:0"), flush=True)
        re.match("(a+)+$", "a" * 25 + "b")  # holds the interpreter for seconds
        print("done", flush=True)
        import time
        time.sleep(30)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            begin, slowest = time.monotonic(), 0.0
            for _ in range(20):
                before = time.monotonic()
                assert stub.Check(health_pb2.HealthCheckRequest(), timeout=2).status == 1
                slowest = max(slowest, time.monotonic() - before)
            assert slowest < 0.5
            was_busy_s = time.monotonic() - begin
        assert process.stdout.readline() == "done\n"
        # The test shows nothing unless the interpreter was busy all the time.
        assert time.monotonic() - begin > was_busy_s
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_grpcio_over_a_unix_socket(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(address=f"unix:{tmp_path}/echo")
    # The authority is set, because grpcio would send the socket's path, which h2 refuses.
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(server.address, options) as channel:
        assert channel.unary_unary(ECHO)(b"x", timeout=5) == b"x"


def test_two_listeners_serve_their_own_paths(server: Server, connect) -> None:
    port = server.engine.listen("127.0.0.1:0", unary=[BLOB])
    channel = connect(f"127.0.0.1:{port}")
    assert channel.unary_unary(BLOB)(b"3", timeout=5) == bytes(3)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(ECHO)(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_port_in_use_and_a_port_shared(server: Server) -> None:
    engine = st.Engine()
    with pytest.raises(OSError, match="in use"):
        engine.listen(server.address, unary=[ECHO])
    port = engine.listen("[::1]:0" if os.path.exists("/proc/net/if_inet6") else "127.0.0.1:0",
                         unary=[ECHO], shares_port=True)  # fmt: skip
    host = "[::1]" if os.path.exists("/proc/net/if_inet6") else "127.0.0.1"
    other = st.Engine()
    assert other.listen(f"{host}:{port}", shares_port=True) == port
    engine.close()
    other.close()


def test_handshakes_end_in_time(serve: Callable[..., Server]) -> None:
    server = serve(handshake_timeout_s=0.3)
    silent = [Raw.__new__(Raw) for _ in range(50)]
    for raw in silent:
        raw.socket = socket.create_connection(("127.0.0.1", server.port))
        raw.socket.send(PREFACE[:9])
    server.until(lambda: server.engine.counters()["connections"] == 50)
    server.until(lambda: server.engine.counters()["connections"] == 0)
    for raw in silent:
        raw.close()


def test_silent_peers_are_closed(serve: Callable[..., Server]) -> None:
    server = serve(keepalive_s=0.2, keepalive_timeout_s=0.2)
    raw = Raw(server.port)
    assert raw.read(2)[1]
    assert server.engine.counters()["keepalive_timeouts"] == 1
    raw.close()


def test_peers_that_answer_pings_stay(serve: Callable[..., Server], connect) -> None:
    server = serve(keepalive_s=0.1, keepalive_timeout_s=0.2)
    channel = connect(server.address)
    assert channel.unary_unary(SLEEP)(b"0.8", timeout=5) == b"0.8"
    assert server.engine.counters()["keepalive_timeouts"] == 0


def test_age_and_idleness(serve: Callable[..., Server]) -> None:
    for limit in ("max_connection_age_s", "max_connection_idle_s"):
        server = serve(**{limit: 0.3})
        raw = Raw(server.port)
        frames, _ = raw.read(5, lambda frame: frame[0] == GOAWAY)
        assert goaway_codes(frames)[:1] == [0], limit
        raw.close()


def test_age_does_not_break_calls(serve: Callable[..., Server], connect) -> None:
    server = serve(max_connection_age_s=0.2)
    sleep = connect(server.address).unary_unary(SLEEP)
    for _ in range(10):
        assert sleep(b"0.1", timeout=5) == b"0.1"
    assert server.engine.counters()["connections_accepted"] > 1


def test_too_many_connections(serve: Callable[..., Server]) -> None:
    server = serve(max_connections=5)
    raws = [Raw(server.port) for _ in range(8)]
    server.until(lambda: server.engine.counters()["connections_refused"] == 3)
    assert server.engine.counters()["connections"] == 5
    for raw in raws:
        raw.close()


def test_a_process_out_of_descriptors_recovers() -> None:
    code = textwrap.dedent(
        """
        import resource, socket, time, skysail_transport as st
        engine = st.Engine()
        port = engine.listen("127.0.0.1:0")
        clients = [socket.socket() for _ in range(60)]
        used = max(client.fileno() for client in clients) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, used + 20))
        for client in clients:
            client.connect(("127.0.0.1", port))
        before = time.process_time()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            engine.take(50)
        assert time.process_time() - before < 0.2, "it spins"
        assert engine.counters()["connections"] == 20, engine.counters()
        for client in clients[:40]:
            client.close()
        end = time.monotonic() + 5
        while engine.counters()["connections_accepted"] < 60:
            engine.take(50)
            assert time.monotonic() < end, engine.counters()
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_bytes_are_released_while_python_is_idle() -> None:
    server = Server(has_own_thread=True)
    with grpc.insecure_channel(
        server.address, [("grpc.max_receive_message_length", -1)]
    ) as channel:
        blob = channel.unary_unary(BLOB)
        for number in range(45):
            assert len(blob(b"10000000", timeout=10)) == 10_000_000
            if number == 14:
                before = rss_bytes()
        # A few answers may still be in buffers.
        server.until(lambda: rss_bytes() - before < 40 << 20)
    server.close()


def test_no_descriptor_or_thread_is_left(has_own_thread: bool, tmp_path: Path) -> None:
    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    def once() -> None:
        server = Server(has_own_thread, address=f"unix:{tmp_path}/echo")
        links = Links(has_own_thread)
        ids = [links.engine.open(server.address, path) for path in (BIDI, BIDI, REPEAT, "/no")]
        links.until(lambda: len(links.accepted) == 3 and len(links.closed) == 1)
        links.engine.cancel(ids[0])
        links.engine.close()
        server.close()

    before, threads = descriptors(), threading.active_count()
    for _ in range(5):
        once()
    with_garbage = st.Engine(has_own_thread=has_own_thread)
    with_garbage.listen("127.0.0.1:0")
    del with_garbage
    assert descriptors() == before
    assert threading.active_count() == threads

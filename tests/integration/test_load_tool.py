"""The load tool of the benchmarks against misbehaving servers."""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks import load_tool
from benchmarks.load_tool import Load, LoadFailed, ServerDied

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    load_tool.build()


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answer connections in a thread inside the block; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def run(address: str, *, mode: str = "closed", pid: int = 0, **options: Any) -> dict[str, Any]:
    load = Load(mode, address, "/a/path", [b"{}"], 0.2, timeout_ms=200, **options)
    return load_tool.run(load, lambda: {"server": [pid] if pid else []})


def close(connection: socket.socket) -> None:
    """Return without an answer, which closes the connection."""


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_refused_connection_fails_the_load(protocol: str):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(LoadFailed, match=f"cannot connect to {address}"):
        run(address, protocol=protocol)


@pytest.mark.parametrize("mode", ["closed", "open"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_hangs_up_breaks_only_requests(protocol: str, mode: str):
    with serving(close) as address:
        result = run(address, mode=mode, protocol=protocol, rate=50.0)
    assert set(result["codes"]) <= {"broken"}
    assert result["answered"] == 0


def test_a_broken_stream_fails_the_load():
    with serving(close) as address, pytest.raises(LoadFailed, match="broke"):
        run(address, mode="stream")


def test_http_answers_are_counted_by_status():
    def answer(connection: socket.socket) -> None:
        number = 0
        while connection.recv(65536):
            connection.sendall(ANSWER if number % 2 else ANSWER.replace(b"200 OK", b"503 Busy"))
            number += 1

    with serving(answer) as address:
        result = run(address, protocol="http")
    assert set(result["codes"]) == {"0", "http 503"}


def test_an_open_loop_reports_its_lag():
    def answer(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(ANSWER)

    with serving(answer) as address:
        result = run(address, mode="open", protocol="http", rate=100.0)
    assert result["offered"] > 0
    assert 0 < result["lag_p50_ms"] <= result["lag_p99_ms"]


def test_a_dead_server_has_its_own_error():
    program = "import sys; sys.stdin.readline()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as server:

        def answer(connection: socket.socket) -> None:
            assert server.stdin is not None
            server.stdin.close()
            server.wait(10)

        with serving(answer) as address, pytest.raises(ServerDied, match="1 of 1 processes"):
            run(address, protocol="http", pid=server.pid)


def test_wrong_arguments_fail_the_load():
    with pytest.raises(LoadFailed, match="--rate"):
        run("127.0.0.1:1", mode="open", rate=0.0)

"""Many calls through one engine leak nothing: memory is flat, descriptors are closed."""

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from harness import (
    DATA,
    ECHO,
    HEADERS,
    Raw,
    Server,
    frame,
    headers,
    message,
    parse_frames,
    rss_bytes,
)

LOAD = Path(__file__).parents[2] / "benchmarks" / "load"
MAX_GROWTH_BYTES = 5 << 20


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def call_many(raw: Raw, first: int, count: int) -> int:
    """Make calls, a hundred at a time, and return the next stream."""
    block, body = headers(), message(bytes(300))
    for begin in range(first, first + 2 * count, 200):
        raw.send(
            b"".join(
                frame(HEADERS, 4, stream, block) + frame(DATA, 1, stream, body)
                for stream in range(begin, begin + 200, 2)
            )
        )
        answers = b""
        while (
            sum(flags & 1 for kind, flags, _, _ in parse_frames(answers) if kind == HEADERS) < 100
        ):
            part = raw.socket.recv(1 << 18)
            assert part
            answers += part
        # The client's window of the connection must be opened, because h2 respects it.
        raw.send(frame(8, 0, 0, struct.pack(">I", 100 * len(body))))
    return first + 2 * count


def test_thirty_thousand_calls(server: Server) -> None:
    descriptors = num_descriptors()
    raw = Raw(server.port)
    stream = call_many(raw, 1, 5_000)
    before = rss_bytes()
    call_many(raw, stream, 25_000)
    assert rss_bytes() - before < MAX_GROWTH_BYTES
    raw.close()
    server.until(lambda: server.engine.counters()["connections"] == 0)
    assert server.engine.counters()["calls"] == 30_000
    assert num_descriptors() == descriptors


def test_a_thousand_connections_one_after_the_other(server: Server) -> None:
    def connect(count: int) -> None:
        for _ in range(count):
            raw = Raw(server.port)
            raw.call(1, message(b"x"))
            assert raw.socket.recv(1 << 16)
            raw.close()
        server.until(lambda: server.engine.counters()["connections"] == 0)

    descriptors = num_descriptors()
    connect(200)
    before = rss_bytes()
    connect(800)
    assert rss_bytes() - before < MAX_GROWTH_BYTES
    assert num_descriptors() == descriptors


@pytest.fixture(scope="module")
def load_tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    target = tmp_path_factory.mktemp("load")
    command = ["cargo", "build", "--release", "--quiet", "--target-dir", str(target)]
    subprocess.run(command, cwd=LOAD, check=True)
    return target / "release" / "skysail-load"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_calls(server: Server, load_tool: Path, tmp_path: Path) -> None:
    messages = tmp_path / "messages"
    messages.write_bytes(b"".join(struct.pack("<I", size) + bytes(size) for size in (0, 300, 5000)))

    def load(seconds: int) -> None:
        command = [load_tool, "--mode", "closed", "--address", server.address, "--path", ECHO]
        command += ["--messages", messages, "--callers", "64", "--connections", "4"]
        command += ["--seconds", str(seconds)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert set(json.loads(result.stdout)["codes"]) == {"0"}

    descriptors = num_descriptors()
    load(3)
    begin, before = server.num_calls, rss_bytes()
    while server.num_calls - begin < 1_000_000:
        load(10)
    growth = rss_bytes() - before
    print(f"{server.num_calls - begin} calls, memory grew by {growth >> 10} KiB")
    assert growth < MAX_GROWTH_BYTES
    server.until(lambda: server.engine.counters()["connections"] == 0)
    assert num_descriptors() == descriptors

"""A slow or hung registry: deploys show progress, and nothing else waits for the pull."""

import asyncio
import base64
import json
import os
import secrets
import shutil
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from time import monotonic

import pytest

from skysail_testing.container_managers import (
    open_harness,
    run_docker,
    running_backend,
    why_no_docker,
)
from skysail_testing.docker_engines import registry

LAYER_BYTES = 2_000_000
SLOW_BYTES_PER_S = 500_000
_CHUNK_BYTES = 50_000


def echo(texts):
    return list(texts)


class SlowProxy:
    """A slow proxy of a registry, which stops after a number of bytes."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self.bytes_left = LAYER_BYTES // 4
        self.is_stuck = asyncio.Event()
        """Set when the proxy stops forwarding."""

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._host, int(self._port))
        try:
            await asyncio.gather(self._all(reader, there[1]), self._slowly(there[0], writer))
        except ConnectionError:
            return
        finally:
            writer.close()
            there[1].close()

    async def _all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(_CHUNK_BYTES):
            writer.write(part)
            await writer.drain()
        writer.write_eof()

    async def _slowly(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(_CHUNK_BYTES):
            self.bytes_left -= len(part)
            if self.bytes_left < 0:
                self.is_stuck.set()
                await asyncio.Event().wait()
            await asyncio.sleep(len(part) / SLOW_BYTES_PER_S)
            writer.write(part)
            await writer.drain()


@asynccontextmanager
async def slow_proxy(target: str) -> AsyncIterator[tuple[SlowProxy, str]]:
    line = SlowProxy(target)
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        await line.forward(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield line, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def image_of_random_bytes(name: str, directory: Path) -> None:
    """Make an image with one layer that cannot be compressed; nothing can run in it."""
    archive = directory / "layer.tar"
    with tarfile.open(archive, "w") as file:
        entry = tarfile.TarInfo("data")
        entry.size = LAYER_BYTES
        file.addfile(entry, BytesIO(os.urandom(LAYER_BYTES)))
    run_docker("import", "--change", 'CMD ["/data"]', str(archive), name)


async def test_slow_pull_shows_progress_and_a_hanging_one_can_be_cancelled(tmp_path: Path):
    if why_no_docker():
        pytest.skip(why_no_docker())
    if shutil.which("docker-registry") is None or shutil.which("htpasswd") is None:
        pytest.skip("docker-registry or htpasswd is not on this machine")
    password = secrets.token_hex(8)
    with registry(tmp_path, "skysail", password) as address:
        login = base64.b64encode(f"skysail:{password}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {address: {"auth": login}}}))
        async with slow_proxy(address) as (line, slow_address):
            name, pulled = f"{address}/base:1", f"{slow_address}/base:1"
            image_of_random_bytes(name, tmp_path)
            await asyncio.to_thread(run_docker, "--config", str(tmp_path), "push", "-q", name)
            run_docker("rmi", name)
            values = {
                "docker_image": pulled,
                "docker_registry_user": "skysail",
                "docker_registry_password": password,
            }
            async with running_backend("docker", tmp_path / "d", **values) as backend_and_server:
                async with open_harness(*backend_and_server) as harness:
                    spec = harness.version(echo)
                    stuck = asyncio.create_task(harness.manager.prepare(spec, lambda text: None))
                    await asyncio.wait_for(line.is_stuck.wait(), 20)
                    begin = monotonic()
                    # Other operations continue.
                    assert await harness.manager.list() == []
                    stuck.cancel()
                    await asyncio.gather(stuck, return_exceptions=True)
                    assert stuck.cancelled()
                    assert monotonic() - begin < 5
                async with open_harness(*backend_and_server) as harness:
                    line.bytes_left = 10 * LAYER_BYTES
                    shown: list[tuple[float, str]] = []
                    begin = monotonic()
                    await harness.manager.prepare(
                        spec, lambda text: shown.append((monotonic() - begin, text))
                    )
                    assert monotonic() - begin > 0.8 * LAYER_BYTES / SLOW_BYTES_PER_S
                    # Progress arrives before the end of the pull.
                    assert shown[0][0] < 3
                    assert any("Pull complete" in text for _, text in shown)
                    await harness.manager.sweep(lambda: [])
            run_docker("rmi", pulled)

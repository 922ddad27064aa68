"""What a cluster that was killed leaves behind, and whoever comes next removes."""

import asyncio
import os
import subprocess
from pathlib import Path

from skysail.clusters.local.cluster import lock, stop_cluster
from skysail.clusters.local.embedded_store import stop_stray_store, store_socket
from skysail_common.process.data_dir import remove_socket_directory
from skysail_common.store import embedded
from skysail_management.containers.local.processes import wait_for_exit
from skysail_testing.container_managers import opened, running_backend


def echo(texts):
    return list(texts)


async def start_store(data_dir: Path) -> "subprocess.Popen[bytes]":
    directory = data_dir / "store"
    directory.mkdir(parents=True)
    command = embedded.server_command(directory, store_socket(data_dir))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    await embedded.wait_until_ready(store_socket(data_dir))
    return process


async def test_down_stops_what_was_left_before_the_cluster_was_ready(tmp_path: Path):
    data_dir = tmp_path / "d"
    assert not await stop_cluster(data_dir, "test", os.environ)
    async with running_backend("local", data_dir) as (backend, server):
        async with opened(backend, server) as hand:
            container = await hand.start_ready(hand.version(echo))
            gone = asyncio.create_task(wait_for_exit(backend.pid(container)))
        store = await start_store(data_dir)
        os.close(lock(data_dir))
        assert await stop_cluster(data_dir, "test", os.environ)
        assert store.wait(10) == 0
        await asyncio.wait_for(gone, 10)


async def test_a_store_that_was_left_behind_is_stopped_and_none_is_fine(tmp_path: Path):
    store = await start_store(tmp_path)
    assert await stop_stray_store(tmp_path)
    assert store.wait(10) == 0
    assert not await stop_stray_store(tmp_path)
    remove_socket_directory(tmp_path)

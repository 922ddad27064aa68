"""Leftovers of a killed cluster, and their removal by the next commands."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from skysail.clusters.data_dir_lock import lock
from skysail.clusters.local.cluster import LocalCluster
from skysail.clusters.local.store import stop_stray_store, store_socket
from skysail.clusters.options import ClusterOptions
from skysail_common.errors import FailedPrecondition
from skysail_common.process.data_dir import remove_socket_directory
from skysail_common.store import embedded
from skysail_management.containers.local.processes import wait_for_exit
from skysail_testing.container_managers import open_harness, running_backend


def echo(texts):
    return list(texts)


async def start_store(data_dir: Path) -> "subprocess.Popen[bytes]":
    directory = data_dir / "store"
    directory.mkdir(parents=True)
    command = embedded.server_command(directory, store_socket(data_dir))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    await embedded.wait_until_ready(store_socket(data_dir))
    return process


def confirm(subject: str, consequence: str) -> None:
    raise AssertionError("a local cluster is stopped without a question")


async def test_down_stops_leftovers_of_an_unfinished_start(tmp_path: Path):
    data_dir = tmp_path / "d"
    cluster = LocalCluster(ClusterOptions(data_dir, "test"), os.environ)
    with pytest.raises(FailedPrecondition, match="no cluster runs in"):
        await cluster.down(confirm)
    async with running_backend("local", data_dir) as (backend, server):
        async with open_harness(backend, server) as harness:
            container = await harness.start_ready(harness.version(echo))
            gone = asyncio.create_task(wait_for_exit(backend.pid(container)))
        store = await start_store(data_dir)
        os.close(lock(data_dir))
        assert await cluster.down(confirm) == ["stopped"]
        assert store.wait(10) == 0
        await asyncio.wait_for(gone, 10)


async def test_leftover_store_is_stopped_if_any(tmp_path: Path):
    store = await start_store(tmp_path)
    assert await stop_stray_store(tmp_path)
    assert store.wait(10) == 0
    assert not await stop_stray_store(tmp_path)
    remove_socket_directory(tmp_path)

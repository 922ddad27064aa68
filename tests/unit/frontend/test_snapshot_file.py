import asyncio
import threading
from pathlib import Path

import pytest

from skysail_frontend.upstream import snapshot_file
from skysail_frontend.upstream.snapshot_file import SnapshotFile
from skysail_protos.v1 import routing_pb2


async def test_a_slow_disk_does_not_block_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    may_write = threading.Event()
    written: list[int] = []

    def replace(path: Path, snapshot: routing_pb2.RoutingSnapshot) -> None:
        assert may_write.wait(10)
        written.append(snapshot.sequence)

    monkeypatch.setattr(snapshot_file, "_replace", replace)
    file = SnapshotFile(tmp_path / "routes")
    for sequence in range(1, 6):
        file.save(routing_pb2.RoutingSnapshot(sequence=sequence))
        await asyncio.sleep(0)
    assert written == []
    may_write.set()
    await file.close()
    assert written == [1, 5]


async def test_no_file_is_written_without_a_path():
    file = SnapshotFile(None)
    file.save(routing_pb2.RoutingSnapshot(sequence=1))
    await file.close()
    assert len(asyncio.all_tasks()) == 1

"""The file with the latest routes."""

import asyncio
import logging
from pathlib import Path

from skysail_common.process.threads import in_thread
from skysail_protos.v1 import routing_pb2

log = logging.getLogger(__name__)

_CLOSE_S = 2.0


class SnapshotFile:
    """A file of the latest snapshot, which a thread writes without blocking queries."""

    def __init__(self, path: Path | None) -> None:
        """Writes nothing before `save`, and never without a path."""
        self._path = path
        self._unwritten: routing_pb2.RoutingSnapshot | None = None
        self._writing: asyncio.Task[None] | None = None

    def save(self, snapshot: routing_pb2.RoutingSnapshot) -> None:
        """Write a snapshot in the background; it replaces an unwritten one."""
        if self._path is None:
            return
        self._unwritten = snapshot
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(self._path), name="write snapshot")

    async def _write(self, path: Path) -> None:
        while self._unwritten is not None:
            snapshot, self._unwritten = self._unwritten, None
            try:
                await in_thread(_replace, path, snapshot)
            except OSError as error:
                log.warning("snapshot not written", extra={"error": str(error)})

    async def close(self) -> None:
        """Wait until the latest snapshot is written, at most 2 s."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_CLOSE_S)


def _replace(path: Path, snapshot: routing_pb2.RoutingSnapshot) -> None:
    temporary = path.with_name(f"{path.name}.new")
    # The mode protects the names of models and the endpoints of replicas.
    temporary.touch(mode=0o600)
    temporary.write_bytes(snapshot.SerializeToString())
    temporary.replace(path)

"""The file of the last routes."""

import asyncio
import logging
from pathlib import Path

from skysail_common.process.threads import in_thread
from skysail_protos.v1 import routing_pb2

log = logging.getLogger(__name__)

_CLOSE_S = 2.0


class SnapshotFile:
    """Keeps the newest snapshot in a file; a thread writes it while queries go on."""

    def __init__(self, path: Path | None) -> None:
        """Writes nothing yet; never does without a path."""
        self._path = path
        self._unwritten: routing_pb2.RoutingSnapshot | None = None
        self._writing: asyncio.Task[None] | None = None

    def save(self, snapshot: routing_pb2.RoutingSnapshot) -> None:
        """Have a snapshot written; one that waits to be written is dropped for it."""
        if self._path is None:
            return
        self._unwritten = snapshot
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(self._path), name="keep routes")

    async def _write(self, path: Path) -> None:
        while self._unwritten is not None:
            snapshot, self._unwritten = self._unwritten, None
            try:
                await in_thread(_replace, path, snapshot)
            except OSError as error:
                log.warning("routes not kept", extra={"error": str(error)})

    async def close(self) -> None:
        """Return once the newest snapshot is written, or after 2 s."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_CLOSE_S)


def _replace(path: Path, snapshot: routing_pb2.RoutingSnapshot) -> None:
    temporary = path.with_name(f"{path.name}.new")
    # It names models and where replicas listen.
    temporary.touch(mode=0o600)
    temporary.write_bytes(snapshot.SerializeToString())
    temporary.replace(path)

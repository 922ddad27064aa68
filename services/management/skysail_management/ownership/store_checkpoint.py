"""The checkpoint of the store in the data directory: its last observed state.

A store that lost its data looks like a new one; the checkpoint shows the difference.
"""

import contextlib
import json
import logging
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_FILE = "store-seen.json"


@dataclass(frozen=True)
class StoreCheckpoint:
    """The state of a store at one instant."""

    id: str
    revision: int
    epoch: int

    @property
    def name(self) -> str:
        """Name of the state, by which operators accept its loss.

        The name contains the epoch, because a store that went back to an older revision may reach
        the same revision again.
        """
        return f"{self.id}-{self.epoch}-{self.revision}"


class CheckpointFile:
    """The checkpoint of one cluster in a data directory, which clusters may share."""

    def __init__(self, data_dir: Path, cluster: str) -> None:
        self._path = data_dir / _FILE
        self._cluster = cluster
        # The renewal and a status request may write concurrently, each in a thread.
        self._lock = threading.Lock()

    def read(self) -> StoreCheckpoint | None:
        """Return the checkpoint, or None if it does not exist or cannot be read."""
        try:
            values = self._all().get(self._cluster)
            if values is None:
                return None
            return StoreCheckpoint(str(values["id"]), int(values["revision"]), int(values["epoch"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("store checkpoint not read", extra={"error": str(error)})
            return None

    def write(self, seen: StoreCheckpoint) -> None:
        """Write the checkpoint atomically and durably."""
        with self._lock:
            self._write(seen)

    def _write(self, seen: StoreCheckpoint) -> None:
        checkpoints = {}
        # An unreadable file is replaced.
        with contextlib.suppress(OSError, ValueError):
            checkpoints = self._all()
        checkpoints[self._cluster] = asdict(seen)
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("w") as file:
                json.dump(checkpoints, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.warning("store checkpoint not written", extra={"error": str(error)})

    def _all(self) -> dict[str, dict[str, str | int]]:
        if not self._path.exists():
            return {}
        checkpoints = json.loads(self._path.read_text())
        if not isinstance(checkpoints, dict):
            raise ValueError(f"{self._path} has no checkpoints")
        return checkpoints

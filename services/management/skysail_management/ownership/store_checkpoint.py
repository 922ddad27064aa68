"""A note in the data directory: the store as management last saw it.

A store that lost its data looks like one that never had any. This note tells the difference.
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
    """A store at one instant."""

    id: str
    revision: int
    epoch: int

    @property
    def name(self) -> str:
        """What operators call it when they give it up.

        The epoch is part of it, because a store that went back to an older revision may come to
        the same revision again.
        """
        return f"{self.id}-{self.epoch}-{self.revision}"


class CheckpointFile:
    """The note of one cluster in a data directory, which may be that of several."""

    def __init__(self, data_dir: Path, cluster: str) -> None:
        self._path = data_dir / _FILE
        self._cluster = cluster
        # The renewal and a call for the status may write at the same time, each in a thread.
        self._lock = threading.Lock()

    def read(self) -> StoreCheckpoint | None:
        """Return the note; None if it does not exist or cannot be read."""
        try:
            values = self._all().get(self._cluster)
            if values is None:
                return None
            return StoreCheckpoint(str(values["id"]), int(values["revision"]), int(values["epoch"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("note about the store not read", extra={"error": str(error)})
            return None

    def write(self, seen: StoreCheckpoint) -> None:
        """Write the note, so that a loss of power leaves it or the one before."""
        with self._lock:
            self._write(seen)

    def _write(self, seen: StoreCheckpoint) -> None:
        notes = {}
        # A note that cannot be read is replaced.
        with contextlib.suppress(OSError, ValueError):
            notes = self._all()
        notes[self._cluster] = asdict(seen)
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("w") as file:
                json.dump(notes, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.warning("note about the store not written", extra={"error": str(error)})

    def _all(self) -> dict[str, dict[str, str | int]]:
        if not self._path.exists():
            return {}
        notes = json.loads(self._path.read_text())
        if not isinstance(notes, dict):
            raise ValueError(f"{self._path} holds no notes")
        return notes

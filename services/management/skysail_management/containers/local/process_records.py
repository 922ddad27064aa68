"""Notes of the local container manager about each process, for the next management."""

import asyncio
import json
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from skysail_common.errors import SkysailError
from skysail_common.identifiers import ReplicaId
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.containers.local.processes import ProcessStart

_NOTE_FILE = "container.json"
_READY_FILE = "ready"


@dataclass
class ProcessRecord:
    """The note about one process."""

    container: Container
    directory: Path
    pid: int
    start: ProcessStart
    child: "subprocess.Popen[bytes] | None"
    """None where an earlier management started it."""
    gone: asyncio.Event
    is_stopping: bool = False
    is_silent: bool = False
    """True once it was killed because it did not answer."""
    readiness: "asyncio.Task[None] | None" = None
    """Watches its health while it lives."""

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return Path(self.container.endpoint.removeprefix("unix:"))

    @property
    def ready_file(self) -> Path:
        """Exists while it is ready."""
        return self.directory / _READY_FILE

    @property
    def log_file(self) -> Path:
        """The file of its standard output and standard error."""
        return log_file(self.directory)


def log_file(directory: Path) -> Path:
    """Return the log of the process that has this directory."""
    return directory / "replica.log"


def write_record(replica: ProcessRecord) -> None:
    """Note a process down in its directory.

    Raises:
        OSError: it cannot be written.
    """
    record = {
        "replica_id": str(replica.container.replica_id),
        "endpoint": replica.container.endpoint,
        "pid": replica.pid,
        "start": replica.start,
        "started_at": (replica.container.started_at or datetime.now(timezone.utc)).isoformat(),
        "labels": dict(replica.container.labels),
    }
    temporary = replica.directory / f"{_NOTE_FILE}.new"
    temporary.write_text(json.dumps(record))
    temporary.rename(replica.directory / _NOTE_FILE)


def read_record(directory: Path) -> ProcessRecord | None:
    """Return the process of this directory; None if its note cannot be read."""
    try:
        record = json.loads((directory / _NOTE_FILE).read_text())
        is_ready = (directory / _READY_FILE).exists()
        container = Container(
            directory.name,
            ReplicaId.parse(record["replica_id"]),
            ReplicaState.READY if is_ready else ReplicaState.STARTING,
            record["endpoint"],
            started_at=datetime.fromisoformat(record["started_at"]),
            labels=record["labels"],
        )
        boot_id, ticks = record["start"]
        start = ProcessStart(boot_id, ticks)
        return ProcessRecord(container, directory, record["pid"], start, None, asyncio.Event())
    except (OSError, ValueError, KeyError, TypeError, SkysailError):
        return None

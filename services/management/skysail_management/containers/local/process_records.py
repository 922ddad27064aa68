"""Records of processes on disk, from which the next management adopts them."""

import asyncio
import json
import subprocess
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.containers.gpus import NO_GPUS, GpuReservation
from skysail_management.containers.local.processes import ProcessStart, this_boot

_RECORD_FILE = "container.json"
_READY_FILE = "ready"


@dataclass
class ProcessRecord:
    """The process of one replica, as this management knows it."""

    container: Container
    directory: Path
    pid: int
    start: ProcessStart
    child: "subprocess.Popen[bytes] | None"
    """None if an earlier management started it."""
    gone: asyncio.Event
    is_stopping: bool = False
    is_silent: bool = False
    """True after a kill because it did not answer."""
    gpus: GpuReservation = NO_GPUS
    """GPUs that it holds until it ends."""
    readiness: "asyncio.Task[None] | None" = None
    """Task that watches its health."""

    @property
    def socket(self) -> Path:
        """The socket on which it listens."""
        return Path(self.container.endpoint.removeprefix("unix:"))

    @property
    def ready_file(self) -> Path:
        """The file that exists while it is ready."""
        return self.directory / _READY_FILE

    @property
    def log_file(self) -> Path:
        """The file of its standard output and standard error."""
        return log_file(self.directory)


def log_file(directory: Path) -> Path:
    """Return the log of the process with this directory."""
    return directory / "replica.log"


def write_record(replica: ProcessRecord) -> None:
    """Write the record of a process into its directory.

    Raises:
        OSError: the file cannot be written.
    """
    record = {
        "replica_id": str(replica.container.replica_id),
        "endpoint": replica.container.endpoint,
        "pid": replica.pid,
        "start": replica.start,
        "started_at": (replica.container.started_at or datetime.now(timezone.utc)).isoformat(),
        "labels": dict(replica.container.labels),
        "gpus": replica.gpus.to_label(),
    }
    temporary = replica.directory / f"{_RECORD_FILE}.new"
    temporary.write_text(json.dumps(record))
    temporary.rename(replica.directory / _RECORD_FILE)


def read_record(directory: Path) -> ProcessRecord | None:
    """Return the process of this directory, or None if its record cannot be read."""
    try:
        record = json.loads((directory / _RECORD_FILE).read_text())
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
        # Records of earlier builds have no GPUs.
        gpus = GpuReservation.from_label(record.get("gpus", ""))
        return ProcessRecord(
            container, directory, record["pid"], start, None, asyncio.Event(), gpus=gpus
        )
    except (OSError, ValueError, KeyError, TypeError, SkysailError):
        return None


def superseded(directories: Iterable[Path], versions: Collection[ModelVersion]) -> Iterator[Path]:
    """Yield the directories of ended processes but the last one of each replica of these versions."""
    newest: dict[ReplicaId, tuple[bool, ProcessStart, Path]] = {}
    boot = this_boot()
    for directory in directories:
        replica = read_record(directory)
        if replica is None or replica.container.replica_id.model_version not in versions:
            yield directory
            continue
        # Ticks order only the processes of one boot.
        found = (replica.start.boot_id == boot, replica.start, directory)
        last = newest.get(replica.container.replica_id, found)
        if last is not found:
            yield min(last, found)[2]
        newest[replica.container.replica_id] = max(last, found)

"""The start of the process of a replica, with its directory and its record."""

import asyncio
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from skysail_common.process.descriptors import restore_descriptor_limit
from skysail_common.process.threads import in_thread
from skysail_management.containers.base import Container
from skysail_management.containers.gpus import GpuReservation
from skysail_management.containers.local.process_records import (
    ProcessRecord,
    log_file,
    write_record,
)
from skysail_management.containers.local.processes import process_start, signal_session
from skysail_management.containers.local.work_directories import (
    make_work_directory,
    remove_replica_directory,
    work_directory,
)


async def launch(
    container: Container,
    directory: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    gpus: GpuReservation,
) -> ProcessRecord:
    """Start a process, and return its record, which is also on disk.

    Args:
        container: The container of the replica.
        directory: Directory of its files, which does not exist yet.
        command: Command of the process.
        environment: Its environment; the directory for temporary files is added.
        gpus: Its GPUs.

    Raises:
        OSError: the process cannot be started; nothing of it remains.
    """
    child: subprocess.Popen[bytes] | None = None
    try:
        child = _spawn(directory, command, environment)
        replica = ProcessRecord(
            container,
            directory,
            child.pid,
            process_start(child.pid),
            child,
            asyncio.Event(),
            gpus=gpus,
        )
        write_record(replica)
    except OSError:
        if child is not None:
            signal_session(child.pid, signal.SIGKILL)
            await in_thread(child.wait)
        await in_thread(remove_replica_directory, directory)
        raise
    return replica


def _spawn(
    directory: Path, command: Sequence[str], environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    temporary = make_work_directory(directory)
    with log_file(directory).open("ab") as output:
        child = subprocess.Popen(
            command,
            cwd=work_directory(directory),
            env={**environment, "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    restore_descriptor_limit(child.pid)
    return child

"""The identity of this management among all on the same store."""

import os
import platform
from pathlib import Path

from skysail_common.store import Owner
from skysail_common.store.owner import present_time
from skysail_management.ownership.data_dir_lock import LOCK_FILE

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def owner_identity(data_dir: Path, lease_id: str = "") -> Owner:
    """Return this management as an owner.

    It is known by the lock of the data directory, on which the kernel of this machine decides, and
    by the Lease of Kubernetes if there is one. A copy of the directory, or the same one seen from
    another machine, has another lock. Called by the holder of both.
    """
    file = (data_dir / LOCK_FILE).stat()
    locks = [f"lock {_kernel()} {file.st_dev} {file.st_ino}"]
    if lease_id:
        locks.append(f"lease {lease_id}")
    place = f"data directory {data_dir.resolve()}, process {os.getpid()}"
    return Owner(tuple(locks), platform.node(), place, present_time())


def _kernel() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        # No Linux. A restart of the machine takes longer than the lease of a store.
        return platform.node()

"""The identity of this management among all managements of a store."""

import os
import platform
from pathlib import Path

from skysail_common.store import Owner
from skysail_common.store.owner import present_time
from skysail_management.ownership.data_dir_lock import LOCK_FILE

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def owner_identity(data_dir: Path, lease_id: str = "") -> Owner:
    """Return the identity of this management as an owner.

    The lock of the data directory identifies it, which the kernel of this machine grants, and the
    Lease of Kubernetes if one exists. A copy of the directory, or the same directory on another
    machine, has another lock. The caller holds both.
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
        # Systems other than Linux have no boot id, but a reboot takes longer than the lease of a
        # store.
        return platform.node()

"""The limit of open files: services raise it to the maximum, user code keeps the original limit."""

import logging
import resource
import sys
from contextlib import suppress

log = logging.getLogger(__name__)

_AT_START = resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of this process to its hard limit, because each connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        # macOS caps the soft limit even if the hard limit is infinite.
        log.warning("descriptor limit not raised", extra={"soft": soft, "error": str(error)})


def restore_descriptor_limit(pid: int) -> None:
    """Set the limits of a child process to the original limits of this process.

    User code may call `select`, which fails on descriptors above 1023.
    """
    if sys.platform == "linux":
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _AT_START)

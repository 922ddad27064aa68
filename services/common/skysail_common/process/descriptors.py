"""The limit of open files: services use all that the system allows, users' code what it expects."""

import logging
import resource
import sys
from contextlib import suppress

log = logging.getLogger(__name__)

_AT_START = resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of this process to its hard limit: each connection is a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        # macOS caps it below a hard limit of infinity.
        log.warning("descriptor limit not raised", extra={"soft": soft, "error": str(error)})


def restore_descriptor_limit(pid: int) -> None:
    """Give a child process the limits that this process was started with.

    User code may call `select`, which fails on descriptors above 1023.
    """
    if sys.platform == "linux":
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _AT_START)

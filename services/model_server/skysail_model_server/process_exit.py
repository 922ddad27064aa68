"""The exit of a replica's process, even if threads of user code remain."""

import logging
import os
import threading
from typing import NoReturn

from skysail_common.errors import SkysailError
from skysail_common.states import ExitCode
from skysail_model_server.replica_log import write_error

log = logging.getLogger(__name__)

_GRACE_S = 5.0


def exit_within_grace() -> None:
    """End the process within a grace period, even if threads of user code do not end."""
    timer = threading.Timer(_GRACE_S, _exit_with_threads)
    timer.daemon = True
    timer.start()


def _exit_with_threads() -> NoReturn:
    main = threading.main_thread()
    left = [each.name for each in threading.enumerate() if not each.daemon and each is not main]
    try:
        log.warning("replica ends with running threads of user code", extra={"threads": left})
    finally:
        os._exit(ExitCode.OK)


def exit_with_error(error: SkysailError, status: ExitCode, log_format: str) -> NoReturn:
    """Write the error that makes the replica useless, and end the process at once.

    An orderly shutdown of the interpreter sometimes crashes while the I/O thread runs, which would
    lose the exit status. It would also wait for threads of user code.

    Args:
        error: The error.
        status: Exit status.
        log_format: Log format of the settings.
    """
    try:
        write_error(error, log_format)
    finally:
        os._exit(status)

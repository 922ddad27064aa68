"""How the process of a replica ends, whatever user code has left in it."""

import logging
import os
import threading
from typing import NoReturn

from skysail_common.errors import SkysailError
from skysail_common.states import ExitCode
from skysail_model_server.replica_log import tell

log = logging.getLogger(__name__)

_GRACE_S = 5.0


def end_in_time() -> None:
    """End the process soon, even if threads that the user's code has left do not end."""
    timer = threading.Timer(_GRACE_S, _end_beside_threads)
    timer.daemon = True
    timer.start()


def _end_beside_threads() -> NoReturn:
    main = threading.main_thread()
    left = [each.name for each in threading.enumerate() if not each.daemon and each is not main]
    try:
        log.warning("threads of the function do not end; the replica ends", extra={"threads": left})
    finally:
        os._exit(ExitCode.OK)


def give_up(error: SkysailError, status: ExitCode, log_format: str) -> NoReturn:
    """Say why there is no model, or none any longer, and end the process at once.

    An interpreter that went down in order would crash now and then, and with it the status be lost:
    the I/O thread still runs. It would also wait for threads that the user's code has left.

    Args:
        error: Why.
        status: Exit status.
        log_format: That of the settings.
    """
    try:
        tell(error, log_format)
    finally:
        os._exit(status)

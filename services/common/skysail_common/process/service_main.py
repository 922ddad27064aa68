"""The main function of `python -m skysail_<service>`: settings, logs, event loop, exit status."""

import asyncio
import faulthandler
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from skysail_common.errors import InvalidInput, SkysailError, Unavailable
from skysail_common.process.descriptors import raise_descriptor_limit
from skysail_common.process.logs import configure
from skysail_common.process.settings import (
    SettingsT,
    describe_settings,
    read_settings,
    unknown_variables,
)
from skysail_common.states import ExitCode

log = logging.getLogger(__name__)


def service_main(
    service: str,
    settings_type: type[SettingsT],
    run: Callable[[SettingsT], Coroutine[Any, Any, None]],
    use_uvloop: bool = False,
) -> int:
    """Run a service until a signal stops it, and return the exit status of the process.

    Args:
        service: Name of the service, such as `management`.
        settings_type: Class of its settings; `--print-settings` prints them and exits.
        run: Coroutine function that serves; its `SkysailError` becomes one line on standard error.
        use_uvloop: True to use the event loop of uvloop.
    """
    arguments = sys.argv[1:]
    prints = "--print-settings" in arguments
    if prints:
        arguments.remove("--print-settings")
    try:
        settings = read_settings(settings_type, f"skysail-{service}", arguments)
    except InvalidInput as error:
        sys.stderr.write(f"{error.message}\n")
        return ExitCode.USAGE
    if prints:
        sys.stdout.write(describe_settings(settings) + "\n")
        return ExitCode.OK
    configure(service, settings.log_level, settings.log_format)
    for warning in unknown_variables(settings_type):
        log.warning(warning)
    # A crash, or the SIGABRT of a watchdog, writes the stack of each thread to standard error.
    faulthandler.enable()
    raise_descriptor_limit()
    try:
        if use_uvloop:
            import uvloop

            uvloop.run(run(settings))
        else:
            asyncio.run(run(settings))
    except Unavailable as error:
        sys.stderr.write(f"skysail-{service}: {error.message}\n")
        return ExitCode.UNAVAILABLE
    except SkysailError as error:
        sys.stderr.write(f"skysail-{service}: {error.message}\n")
        return ExitCode.FAILED
    return ExitCode.OK

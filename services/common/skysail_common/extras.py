"""Optional dependencies of Skysail, which the extras of its wheel install."""

import importlib.util

from skysail_common import __version__
from skysail_common.errors import FailedPrecondition

MODULES = {
    "server": (
        "httptools", "orjson", "prometheus_client", "psutil", "redis", "starlette", "uvicorn",
    ),
    "docker": ("docker",),
    "kubernetes": ("kubernetes", "aiohttp"),
}  # fmt: skip
"""Modules that each extra installs, by import name."""


def require_extra(extra: str) -> None:
    """Check that the modules of an extra are installed.

    Raises:
        FailedPrecondition: a module is missing; the message contains the command to install it.
    """
    for module in MODULES[extra]:
        if importlib.util.find_spec(module) is None:
            raise _not_installed(module, extra)


def missing_extra(error: ModuleNotFoundError) -> FailedPrecondition | None:
    """Return the error that names the extra of a missing module; None for other modules."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in MODULES.items():
        if module in modules:
            return _not_installed(module, extra)
    return None


def _not_installed(module: str, extra: str) -> FailedPrecondition:
    # The command names a wheel because Skysail is not on a package index.
    wheel = f"dist/skysail-{__version__}-py3-none-any.whl"
    return FailedPrecondition(
        f"package {module!r} is not installed; install the wheel that 'make wheels' builds with "
        f"its extra: pip install '{wheel}[{extra}]'"
    )

"""The parts of Skysail that an extra of its wheel installs."""

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
"""What each extra brings, by the names to import."""


def require_extra(extra: str) -> None:
    """Check that the modules of an extra are installed.

    Raises:
        FailedPrecondition: one is not; the message says how to install it.
    """
    for module in MODULES[extra]:
        if importlib.util.find_spec(module) is None:
            raise _not_installed(module, extra)


def missing_extra(error: ModuleNotFoundError) -> FailedPrecondition | None:
    """Return the error that names the extra of a module that is missing; None for other modules."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in MODULES.items():
        if module in modules:
            return _not_installed(module, extra)
    return None


def _not_installed(module: str, extra: str) -> FailedPrecondition:
    # A wheel and not a name: Skysail is on no package index.
    wheel = f"dist/skysail-{__version__}-py3-none-any.whl"
    return FailedPrecondition(
        f"package {module!r} is not installed; install the wheel that 'make wheels' builds with "
        f"its extra: pip install '{wheel}[{extra}]'"
    )

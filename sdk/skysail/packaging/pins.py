"""Requirements of the versions that are installed here."""

import importlib.metadata
import importlib.util
from collections.abc import Collection

from skysail.artifact.distributions import needed_packages


def pinned(*distributions: str) -> tuple[str, ...]:
    """Return a requirement for each distribution, without a version for one that is not installed."""
    return tuple(_pinned(name) for name in distributions)


def _pinned(name: str) -> str:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name
    return _requirement(name, version)


def pinned_for(modules: Collection[str]) -> tuple[str, ...]:
    """Return a requirement for each distribution that contains one of these modules."""
    versions = needed_packages(modules).versions
    return tuple(_requirement(name, version) for name, version in versions.items())


def _requirement(name: str, version: str) -> str:
    # A local part, such as that of 2.4.0+cpu, is not in the package index.
    return f"{name}=={version.partition('+')[0]}"


def is_installed(module: str) -> bool:
    """Return whether a module can be imported here."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def has_distribution(name: str) -> bool:
    """Return whether a distribution is installed here."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

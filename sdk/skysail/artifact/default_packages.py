"""The packages that a model needs in replicas, without those that the user names."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from skysail.artifact.distributions import NeededPackages
from skysail.packaging.base import Packaged
from skysail.packaging.pins import pinned


@dataclass(frozen=True)
class DefaultPackages:
    """Packages of a model."""

    versions: Mapping[str, str]
    """Version of each on the machine that saved the model, as far as it is known."""
    requirements: tuple[str, ...]
    """Requirements, pinned to these versions, of those that replicas must get."""


def default_packages(
    packaged: Packaged, needed: NeededPackages, frames: Collection[str]
) -> DefaultPackages:
    """Return the packages of a model.

    Args:
        packaged: The model. The versions of its requirements go first, because another machine may
            have saved it.
        needed: Packages of the modules to which it refers, with the versions on this machine.
        frames: Libraries of the data frames that it takes; among those packages.
    """
    stated = dict(map(_version_of, packaged.requirements))
    added = {name: each for name, each in needed.versions.items() if name not in stated}
    pins = pinned(*(name for name in added if packaged.pins_packages or name in frames))
    known = {name: version for name, version in stated.items() if version}
    return DefaultPackages({**added, **known}, (*packaged.requirements, *pins))


def _version_of(line: str) -> tuple[str, str]:
    """Return the package of a requirement, and the version if it is pinned to one."""
    name, _, version = line.partition("==")
    return name.strip(), "" if "*" in version else version.strip()

"""Requirements that the packages of the present environment satisfy."""

import importlib.metadata
from collections.abc import Iterator, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name


def are_installed(requirements: Sequence[str]) -> bool:
    """Return whether the present environment satisfies all requirements, without an installation.

    The answer is False for a line that is more than a name with versions, extras and a marker, such as
    an option, a URL or a hash.
    """
    try:
        parsed = [Requirement(line) for line in requirements]
        return all(_is_installed(each, set()) for each in parsed)
    except InvalidRequirement:
        return False


def _is_installed(requirement: Requirement, seen: set[tuple[str, str]]) -> bool:
    if requirement.url is not None:
        return False
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        found = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    if not requirement.specifier.contains(found.version, prereleases=True):
        return False
    # pip installed the dependencies of a package with it, but not those of an extra.
    return all(
        _is_installed(each, seen)
        for extra in requirement.extras
        for each in _needs_of_extra(found, extra, seen)
    )


def _needs_of_extra(
    distribution: importlib.metadata.Distribution, extra: str, seen: set[tuple[str, str]]
) -> Iterator[Requirement]:
    key = (canonicalize_name(distribution.metadata["Name"]), canonicalize_name(extra))
    if key in seen:
        return
    seen.add(key)
    for line in distribution.requires or ():
        need = Requirement(line)
        marker, need.marker = need.marker, None
        if (
            marker is not None
            and not marker.evaluate({"extra": ""})
            and marker.evaluate({"extra": extra})
        ):
            yield need

"""The Python warning about a deployed version that is not current."""

import warnings

from skysail.descriptions import Version


class SkysailWarning(UserWarning):
    """A warning about the effect of a call that succeeded."""


def warn_if_not_current(found: Version, promote: bool | None, *, depth: int) -> None:
    """Warn about a deployed version that answers only queries that name it.

    Args:
        found: The version.
        promote: Argument of the caller; True or False shows an intent, so that no warning is due.
        depth: Number of frames between this function and the line that the warning names.
    """
    if promote is None and found.not_current:
        warnings.warn(found.not_current, SkysailWarning, stacklevel=depth + 2)

"""Python warnings of the SDK: what succeeded, and yet may not be what the caller wants."""

import warnings

from skysail.descriptions import Version


class SkysailWarning(UserWarning):
    """The warning about a call that succeeded with an effect that is easily overlooked."""


def warn_if_not_current(found: Version, promote: bool | None, *, depth: int) -> None:
    """Warn about a deployed version that does not answer unless it is named.

    Args:
        found: The version.
        promote: What its caller gave: True or False shows that the caller knows.
        depth: How many frames lie between this function and the line that the warning names.
    """
    if promote is None and found.not_current:
        warnings.warn(found.not_current, SkysailWarning, stacklevel=depth + 2)

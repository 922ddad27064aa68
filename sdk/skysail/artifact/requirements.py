"""Packages that a function needs in a replica, in the syntax of pip."""

import re
from collections.abc import Sequence
from pathlib import Path

from skysail_common.errors import InvalidInput

# pip requires a space before a comment, because a URL may contain '#'.
_COMMENT = re.compile(r"(?:^|\s)#.*")


def read_requirements(
    pkgs_to_install: Sequence[str], requirements: str | Path | None
) -> tuple[str, ...]:
    """Return the packages of a list and of a requirements file.

    Raises:
        InvalidInput: the file cannot be read.
    """
    packages = [pkgs_to_install] if isinstance(pkgs_to_install, str) else list(pkgs_to_install)
    if requirements is not None:
        try:
            lines = Path(requirements).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise InvalidInput(
                f"cannot read the requirements file {requirements}: {cause}; give the path of a "
                "text file in pip's format"
            ) from error
        packages += [_COMMENT.sub("", line).strip() for line in lines]
    return tuple(package for package in packages if package)

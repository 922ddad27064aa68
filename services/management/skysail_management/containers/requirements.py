"""The requirements of a version for pip: lines of a requirements file, including options."""

import re
from collections.abc import Sequence

from skysail_common.process.install_failures import failure_reason
from skysail_common.sent_wheels import sent_wheels
from skysail_management.containers.base import PrepareFailed

PATH = re.compile(r"(?:(?<=\bfile://)|(?<![\w:/.]))/[^\s'\";,#]+")
"""Matches a file of this machine in requirements or in variables of pip and uv."""

LOG_TAIL_LINES = 30
"""Lines of the log of an installation that explain its failure."""


def requirements_file(requirements: Sequence[str]) -> str:
    """Return the text of the file."""
    # A file is necessary because a line may hold options or continue in the next line.
    return "".join(f"{line}\n" for line in requirements)


def normal_form(requirements: Sequence[str]) -> str:
    """Return a canonical text, equal for equal packages."""
    lines = requirements_file(requirements).replace("\\\n", "").splitlines()
    return "\n".join(sorted(re.sub(r"\s+", "", line) for line in lines))


def install_error(status: int, tail: Sequence[str]) -> PrepareFailed:
    """Return the error for a failed installation, with the end of its log."""
    error = PrepareFailed(
        f"cannot install the requirements: {failure_reason(tail) or f'exit status {status}'}"
    )
    error.log_tail = "\n".join(tail)
    return error


def local_files(requirements: Sequence[str]) -> list[str]:
    """Return the files that the requirements name: of this machine, or wheels of the artifact."""
    return [*sent_wheels(requirements), *PATH.findall(requirements_file(requirements))]

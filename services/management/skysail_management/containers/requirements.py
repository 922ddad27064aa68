"""What a version needs from pip: lines as of a requirements file, which may hold options too."""

import re
from collections.abc import Sequence

from skysail_management.containers.base import PrepareFailed

PATH = re.compile(r"(?:(?<=\bfile://)|(?<![\w:/.]))/[^\s'\";,#]+")
"""A file of this machine, where requirements or pip's variables name one."""

LOG_TAIL_LINES = 30
"""How much of pip's log tells why it failed."""


def requirements_file(requirements: Sequence[str]) -> str:
    """Return the text of the file."""
    # As a file, because a line may hold options, or go on in the next one.
    return "".join(f"{line}\n" for line in requirements)


def normal_form(requirements: Sequence[str]) -> str:
    """Return a text that is the same for the same packages."""
    lines = requirements_file(requirements).replace("\\\n", "").splitlines()
    return "\n".join(sorted(re.sub(r"\s+", "", line) for line in lines))


def install_failed(status: int, tail: Sequence[str]) -> PrepareFailed:
    """Return the error that tells, by the end of pip's log, why it ended with this status."""
    reasons = [line for line in tail if line.startswith("ERROR")]
    error = PrepareFailed(
        "pip cannot install the requirements: "
        f"{reasons[0].removeprefix('ERROR: ') if reasons else f'exit status {status}'}"
    )
    error.log_tail = "\n".join(tail)
    return error


def local_files(requirements: Sequence[str]) -> list[str]:
    """Return the files of this machine that requirements name."""
    return PATH.findall(requirements_file(requirements))

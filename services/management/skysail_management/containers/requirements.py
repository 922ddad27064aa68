"""What a version needs from pip: lines as of a requirements file, which may hold options too."""

import re
from collections.abc import Sequence

from skysail_management.containers.base import PrepareFailed

LOG_TAIL_LINES = 30
"""How much of pip's log tells why it failed."""

INSTALL = (
    "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
    "--requirement",
)  # fmt: skip
"""Arguments of pip, before the path of the file."""


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

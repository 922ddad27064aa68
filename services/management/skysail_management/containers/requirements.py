"""The requirements of a version for pip: lines of a requirements file, including options."""

import re
from collections.abc import Sequence
from itertools import islice, takewhile

from skysail_management.containers.base import PrepareFailed

PATH = re.compile(r"(?:(?<=\bfile://)|(?<![\w:/.]))/[^\s'\";,#]+")
"""Matches a file of this machine in requirements or in variables of pip and uv."""

# uv prints `error: …` or `× …`, and below it `cause: …`, in older versions `╰─▶ …`.
_UV_ERROR = re.compile(r"(?:error: |\s*× )(.+)")
_UV_CAUSE = re.compile(r"\s+(?:cause: |Caused by: |[├╰]─▶ )(.+)")

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
        f"cannot install the requirements: {_reason(tail) or f'exit status {status}'}"
    )
    error.log_tail = "\n".join(tail)
    return error


def _reason(tail: Sequence[str]) -> str:
    """Return the reason that pip or uv gives; empty if it gives none."""
    for index, line in enumerate(tail):
        if line.startswith("ERROR: "):
            return line.removeprefix("ERROR: ")
        if (found := _UV_ERROR.match(line)) is not None:
            causes = (_UV_CAUSE.match(each) for each in islice(tail, index + 1, None))
            parts = [found[1], *(cause[1] for cause in takewhile(bool, causes) if cause)]
            return ": ".join(part.removesuffix(":") for part in parts)
    return ""


def local_files(requirements: Sequence[str]) -> list[str]:
    """Return the files of this machine that the requirements name."""
    return PATH.findall(requirements_file(requirements))

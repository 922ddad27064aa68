"""The reason of a failed installation, from the output of pip or uv."""

import re
from collections.abc import Sequence
from itertools import islice, takewhile

# uv prints `error: …` or `× …`, and below it `cause: …`, in older versions `╰─▶ …`.
_UV_ERROR = re.compile(r"(?:error: |\s*× )(.+)")
_UV_CAUSE = re.compile(r"\s+(?:cause: |Caused by: |[├╰]─▶ )(.+)")


def failure_reason(lines: Sequence[str]) -> str:
    """Return the reason that pip or uv gives; empty if it gives none."""
    for index, line in enumerate(lines):
        if line.startswith("ERROR: "):
            return line.removeprefix("ERROR: ")
        if (found := _UV_ERROR.match(line)) is not None:
            causes = (_UV_CAUSE.match(each) for each in islice(lines, index + 1, None))
            parts = [found[1], *(cause[1] for cause in takewhile(bool, causes) if cause)]
            return ": ".join(part.removesuffix(":") for part in parts)
    return ""

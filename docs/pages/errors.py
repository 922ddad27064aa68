"""The page of errors, from the classes of errors."""

from collections.abc import Iterator

from docs.pages.markdown import GENERATED
from skysail_common.errors import SkysailError


def errors_page() -> str:
    """Return docs/errors.md."""
    lines = [
        "# Errors",
        "",
        "Every error of Skysail carries a gRPC status. Its class travels in the trailing metadata",
        "`skysail-reason`, so that the SDK raises the same class (`skysail.errors`). A server logs",
        "any other failure with its traceback, and the caller reads `internal error`.",
        "",
        "The status says what helps:",
        "",
        "| status | remedy |",
        "|---|---|",
        "| `UNAVAILABLE` | retry the call |",
        "| `ABORTED` | read again, then retry |",
        "| `FAILED_PRECONDITION` | mend what the message names, then retry |",
        "| `RESOURCE_EXHAUSTED` | retry after the time that the error names, or add replicas |",
        "| `DEADLINE_EXCEEDED` | allow more time (SLO or timeout), or add replicas; retry |",
        "| `INVALID_ARGUMENT`, `NOT_FOUND` | correct the call |",
        "| `ALREADY_EXISTS` | choose another name or version, or change the existing object |",
        "| `UNAUTHENTICATED` | pass the token or certificate of the server |",
        "| `UNIMPLEMENTED` | ask a server or container manager that supports the call |",
        "| `INTERNAL` | read the message (`ModelFailed`: mend the function) or the server's log |",
        "",
        "## Classes",
        "",
        "| class | gRPC status | meaning |",
        "|---|---|---|",
    ]
    for depth, error in _tree(SkysailError, 0):
        meaning = " ".join((error.__doc__ or "").split())
        indent = "&nbsp;&nbsp;" * depth
        lines.append(f"| {indent}`{error.__name__}` | `{error.status.name}` | {meaning} |")
    lines += ["", GENERATED.format("the classes of errors")]
    return "\n".join(lines) + "\n"


def _tree(error: type[SkysailError], depth: int) -> Iterator[tuple[int, type[SkysailError]]]:
    yield depth, error
    for below in error.__subclasses__():
        # The page lists errors that cross the wire; a service may have others.
        if below.__module__ == SkysailError.__module__:
            yield from _tree(below, depth + 1)

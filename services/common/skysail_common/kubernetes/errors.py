"""Errors of the Kubernetes API as `SkysailError` classes."""

import json
import re

from skysail_common.errors import ContainerManagerUnavailable, FailedPrecondition, SkysailError

_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group '
    r'"(?P<group>[^"]*)"(?: in the namespace "(?P<namespace>[^"]+)")?'
)


class ClusterRefused(SkysailError):
    """Kubernetes refuses a request; the message is the cause."""


class NotInCluster(ClusterRefused):
    """An object does not exist in the Kubernetes cluster."""


class ChangedMeanwhile(ClusterRefused):
    """Another client changed or created the object first."""


class HistoryGone(ClusterRefused):
    """The server no longer has the changes since an older version of a list."""


class NotAllowed(FailedPrecondition):
    """A role of Kubernetes lacks a rule; the message names the verb and the resource."""


def message_of(content: bytes) -> str:
    """Return the message of an error response."""
    try:
        found = json.loads(content)
        return str(found["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace").strip()


def refusal(status: int, message: str) -> SkysailError:
    """Return the error for an HTTP status and a message of Kubernetes."""
    if status == 403 and (found := _FORBIDDEN.search(message)):
        resource = ".".join(filter(None, (found["resource"], found["group"])))
        where = f" in namespace {found['namespace']!r}" if found["namespace"] else ""
        return NotAllowed(
            f"{found['user']!r} may not {found['verb']} {resource}{where}: a role must allow it"
        )
    if status == 401:
        return NotAllowed(f"Kubernetes rejects the credentials: {message}")
    classes: dict[int, type[SkysailError]] = {
        404: NotInCluster,
        409: ChangedMeanwhile,
        410: HistoryGone,
        429: ContainerManagerUnavailable,
    }
    if status >= 500:
        return ContainerManagerUnavailable(f"Kubernetes is unavailable: {message}")
    return classes.get(status, ClusterRefused)(message)

"""What Kubernetes says where it does not do what it was asked to, as errors of ours."""

import json
import re

from skysail_common.errors import ContainerManagerUnavailable, FailedPrecondition, SkysailError

_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group '
    r'"(?P<group>[^"]*)"(?: in the namespace "(?P<namespace>[^"]+)")?'
)


class ClusterRefused(SkysailError):
    """Kubernetes cannot do what it was asked to; says why."""


class NotInCluster(ClusterRefused):
    """Kubernetes has no such object."""


class ChangedMeanwhile(ClusterRefused):
    """An object was changed, or made, by another first."""


class HistoryGone(ClusterRefused):
    """What changed since an older version of a list is no longer known."""


class NotAllowed(FailedPrecondition):
    """A role of Kubernetes lacks a rule; names the verb and the resource."""


def message_of(content: bytes) -> str:
    """Return what an answer says that is none."""
    try:
        found = json.loads(content)
        return str(found["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace").strip()


def refusal(status: int, message: str) -> SkysailError:
    """Return the error that an HTTP status and a message of Kubernetes stand for."""
    if status == 403 and (found := _FORBIDDEN.search(message)):
        resource = ".".join(filter(None, (found["resource"], found["group"])))
        where = f" in namespace {found['namespace']!r}" if found["namespace"] else ""
        return NotAllowed(
            f"{found['user']!r} may not {found['verb']} {resource}{where}: a role must allow it"
        )
    if status == 401:
        return NotAllowed(f"Kubernetes does not know who asks: {message}")
    classes: dict[int, type[SkysailError]] = {
        404: NotInCluster,
        409: ChangedMeanwhile,
        410: HistoryGone,
        429: ContainerManagerUnavailable,
    }
    if status >= 500:
        return ContainerManagerUnavailable(f"Kubernetes cannot answer now: {message}")
    return classes.get(status, ClusterRefused)(message)

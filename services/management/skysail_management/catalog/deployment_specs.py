"""The deployments that callers of `deploy` request, and their merge with existing ones.

An absent value means "as it is": it stays as it was deployed, so that repeating a deployment
changes nothing. A notice names each given field that changed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from skysail_common.errors import FailedPrecondition, InvalidInput
from skysail_common.resources import ResourceChanges, Resources
from skysail_common.rpc.transports import VARIABLE
from skysail_common.serving_options import ServingOptions
from skysail_management.catalog.applications import ApplicationSpec
from skysail_management.records import DeploymentRecord, VersionRecord

MAX_REPLICAS = 1000


@dataclass(frozen=True)
class DeploymentSpec:
    """The deployment that a caller requests; None leaves a value unchanged."""

    artifact_sha256: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    num_replicas: int | None = None
    resources: ResourceChanges = field(default_factory=ResourceChanges)
    environment: Mapping[str, str] | None = None
    serving: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `ServingOptions` to change."""
    start_timeout_s: float | None = None
    promote: bool | None = None
    warm_up: bool | None = None
    application: ApplicationSpec | None = None
    """Application to register and route to the model when the version is ready."""

    def check(self) -> None:
        """Check that a deployment can have these values.

        Raises:
            InvalidInput: a value is not possible; the message names it.
        """
        if self.num_replicas is not None and not 1 <= self.num_replicas <= MAX_REPLICAS:
            raise InvalidInput(f"num_replicas must be from 1 to {MAX_REPLICAS} to deploy")
        self.resources.check()
        if self.application is not None and self.promote is False:
            raise InvalidInput(
                f"cannot route application {self.application.name!r} to the model without a "
                "promotion: its queries go to the current version; leave out promote=False"
            )
        for name, value in (self.environment or {}).items():
            is_possible = name and "=" not in name and "\0" not in name + value
            # The transport variable is the only setting of Skysail that a replica may override.
            if not is_possible or (name.startswith("SKYSAIL_") and name != VARIABLE):
                raise InvalidInput(f"cannot set {name!r} as an environment variable of a replica")


def first_deployment(
    version: VersionRecord,
    spec: DeploymentSpec,
    default: DeploymentRecord,
    *,
    is_new_version: bool,
) -> DeploymentRecord:
    """Return the deployment of a version that is not deployed.

    Args:
        version: The version.
        spec: The request. Without an artifact, the version starts as it was last deployed.
        default: The default values.
        is_new_version: True if this deployment registers the version.
    """
    base = default
    if not spec.artifact_sha256 and version.last_deployment is not None:
        base = version.last_deployment
    changes: dict[str, object] = {"resources": spec.resources.apply(base.resources)}
    if spec.environment is not None:
        changes["environment"] = spec.environment
    if spec.num_replicas is not None:
        changes |= {"num_replicas": spec.num_replicas, "autoscaling": None}
    else:
        changes["num_replicas"] = max(1, base.num_replicas)
    if spec.start_timeout_s is not None:
        changes["start_timeout_s"] = spec.start_timeout_s
    if spec.warm_up is not None:
        changes["warm_up"] = spec.warm_up
    promotes = spec.promote
    if promotes is None:
        promotes = bool(spec.artifact_sha256) and not version.was_current
    return base.model_copy(
        update={
            **changes,
            "serving": merge_serving(base.serving, spec.serving),
            "is_rolled_out": False,
            "promote_when_ready": promotes,
            "removes_version_on_failure": is_new_version,
            "application": None,
        }
    )


def update_deployment(
    existing: DeploymentRecord, spec: DeploymentSpec, *, is_current: bool
) -> tuple[DeploymentRecord, list[str]]:
    """Return the deployment after a request, and notices for the caller.

    Raises:
        FailedPrecondition: the resources or environment differ from the deployed ones, or the
            version cannot be promoted because it has no replicas.
    """
    _check_template(existing, spec)
    notices: list[str] = []
    changes: dict[str, object] = {}
    changes["num_replicas"] = _num_replicas(existing, spec, notices)
    serving = merge_serving(existing.serving, spec.serving)
    for name, before, after in differences(existing.serving, serving):
        notices.append(f"{name} changed from {before} to {after} because it was given")
    changes["serving"] = serving
    if spec.start_timeout_s not in (None, existing.start_timeout_s):
        changes["start_timeout_s"] = spec.start_timeout_s
        notices.append(
            f"start_timeout_s changed from {existing.start_timeout_s:g} to "
            f"{spec.start_timeout_s:g} because it was given"
        )
    if spec.warm_up not in (None, existing.warm_up):
        changes["warm_up"] = spec.warm_up
        notices.append(f"warm_up={spec.warm_up} holds for replicas that start from now on")
    if spec.promote is not None:
        changes["promote_when_ready"] = spec.promote and not is_current
    changed = existing.model_copy(update=changes)
    if changed.num_replicas == 0:
        if changed.promote_when_ready:
            raise FailedPrecondition(
                f"cannot promote model {str(existing.model_version)!r}: it is scaled to 0; "
                "give num_replicas too"
            )
        notices.append(
            f"{existing.model_version} stays scaled to 0; 'skysail start {existing.model_version}' "
            "or num_replicas starts it"
        )
    return changed, notices


def _check_template(existing: DeploymentRecord, spec: DeploymentSpec) -> None:
    given = spec.resources.given().items()
    others = [name for name, value in given if getattr(existing.resources, name) != value]
    if spec.environment not in (None, existing.environment):
        others.append("environment")
    if others:
        # The error omits the values of an environment, which may be secrets.
        names = ", ".join(others)
        raise FailedPrecondition(
            f"model {str(existing.model_version)!r} is deployed with other resources or "
            f"environment ({names}); undeploy it first: 'skysail undeploy {existing.model_version}', "
            "or deploy this as a new version"
        )


def _num_replicas(existing: DeploymentRecord, spec: DeploymentSpec, notices: list[str]) -> int:
    before, wanted = existing.num_replicas, spec.num_replicas
    if wanted is None:
        # A call without an artifact requests replicas of the registered version.
        return before if spec.artifact_sha256 else max(1, before)
    if existing.autoscaling is not None:
        # A caller that repeats a deployment does not know the load.
        if wanted != before:
            notices.append(
                f"{before} replicas stay although num_replicas={wanted} was given: their number "
                f"follows the load; 'skysail scale {existing.model_version} {wanted}' ends that"
            )
        return before
    if wanted != before:
        notices.append(f"scaled {before} to {wanted} because num_replicas={wanted} was given")
    return wanted


def merge_serving(options: ServingOptions, changes: Mapping[str, Any]) -> ServingOptions:
    """Return serving options with other fields.

    Raises:
        InvalidInput: an option is not possible; the message names it.
    """
    changed = replace(options, **changes)
    changed.check()
    return changed


def differences(before: ServingOptions, after: ServingOptions) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name, the old and the new value of each option that differs."""
    for name, value in vars(before).items():
        if value != getattr(after, name):
            yield name, value, getattr(after, name)


def template_of(deployment: DeploymentRecord) -> tuple[Resources, Mapping[str, str]]:
    """Return the immutable values of a deployment; a deployment with other values is another."""
    return deployment.resources, deployment.environment

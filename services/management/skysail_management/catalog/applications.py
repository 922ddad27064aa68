"""Applications that callers describe, and those that the end of a rollout registers."""

import json
from dataclasses import dataclass

import orjson

from skysail_common.errors import AlreadyExists, FailedPrecondition, InvalidInput
from skysail_common.identifiers import ModelVersion, check_application_name
from skysail_common.tensors import InputType
from skysail_management.records import (
    ApplicationRecord,
    DeploymentRecord,
    Records,
    RouteRecord,
    VersionRecord,
)

_MAX_DEFAULT_OUTPUT_BYTES = 65_536


@dataclass(frozen=True)
class ApplicationSpec:
    """The application that a caller requests."""

    name: str
    slo_s: float
    default_output_json: str | None = None
    bypasses_cache: bool = False
    input_type: InputType | None = None
    """None for the input type of the version that it is routed to."""

    def to_record(self, input_type: InputType) -> ApplicationRecord:
        """Return the record of the application, without routes.

        Raises:
            InvalidInput: an illegal name, or a default output that is not JSON.
        """
        check_application_name(self.name)
        return ApplicationRecord(
            name=self.name,
            input_type=input_type,
            slo_s=self.slo_s,
            default_output_json=check_default_output(self.default_output_json),
            bypasses_cache=self.bypasses_cache,
        )


def check_default_output(default_output_json: str | None) -> str | None:
    """Return a default output in canonical form; None stays None.

    Raises:
        InvalidInput: it is too large, or not JSON.
    """
    if default_output_json is None:
        return None
    if len(default_output_json.encode()) > _MAX_DEFAULT_OUTPUT_BYTES:
        raise InvalidInput("the default output is larger than 64 KiB")
    try:
        value = orjson.loads(default_output_json)
        # Frontends write the value with orjson, which accepts less nesting than it reads.
        orjson.dumps(value)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        raise InvalidInput(f"the default output is not JSON: {error}") from error
    return json.dumps(value)


def without_routes(application: ApplicationRecord) -> ApplicationRecord:
    """Return the application without its routes."""
    return application.model_copy(update={"routes": ()})


def check_same_values(existing: ApplicationRecord, wanted: ApplicationRecord) -> None:
    """Check that an application has the values that a caller requests, whatever its routes.

    Raises:
        AlreadyExists: a value differs.
    """
    if without_routes(existing) != without_routes(wanted):
        name = existing.name
        raise AlreadyExists(
            f"application {name!r} is registered with other values; change it with "
            f"'skysail apps update {name}' or client.update_application"
        )


def with_application(
    records: Records, version: VersionRecord, deployment: DeploymentRecord, spec: ApplicationSpec
) -> DeploymentRecord:
    """Return the deployment whose rollout registers an application and routes it to the model.

    The deployment is the same if the application is registered and routed already. The rollout
    promotes the version if the model has no current one, because the route leads to that.

    Raises:
        InvalidInput: an illegal name, or a default output that is not JSON.
        AlreadyExists: an application of this name has other values or routes.
        FailedPrecondition: the version is scaled to 0, or its rollout registers another application.
    """
    existing = records.applications.get(spec.name)
    input_type = spec.input_type or (existing.input_type if existing else version.input_type)
    wanted = spec.to_record(input_type).model_copy(
        update={"routes": (RouteRecord(model=version.model),)}
    )
    if existing is not None:
        check_same_values(existing, wanted)
        if existing == wanted:
            return deployment
        if existing.routes:
            raise AlreadyExists(
                f"application {spec.name!r} is routed to other models; route it to "
                f"{version.model!r} with 'skysail apps link {spec.name} {version.model}' or client.link"
            )
    pending = deployment.application
    if pending is not None and pending != wanted:
        raise FailedPrecondition(
            f"cannot register application {spec.name!r}: the rollout of {version.model_version} "
            f"registers application {pending.name!r}; repeat the call after it"
        )
    if deployment.num_replicas == 0:
        raise FailedPrecondition(
            f"cannot route application {spec.name!r} to model {str(version.model_version)!r}: it is "
            "scaled to 0; give num_replicas too"
        )
    model = records.models.get(version.model)
    has_current = model is not None and bool(model.current_version)
    return deployment.model_copy(
        update={
            "application": wanted,
            "promote_when_ready": deployment.promote_when_ready or not has_current,
        }
    )


def check_pending(
    application: ApplicationRecord, pending: ApplicationRecord, by: ModelVersion
) -> None:
    """Check that an application may exist while a rollout is about to register it.

    Args:
        application: The application as it would become.
        pending: The application of that name that the rollout registers.
        by: The version that is rolled out.

    Raises:
        FailedPrecondition: the rollout would change the application.
    """
    if application not in (pending, without_routes(pending)):
        raise FailedPrecondition(
            f"cannot change application {application.name!r}: the deployment of {by} is about to "
            "register it; repeat the call after the deployment"
        )

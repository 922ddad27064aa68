"""Rules that hold for the records after every commit, by an operator or the reconciler.

* Every route leads to a registered model, and to a registered version if it names one.
* The input type of an application fits the versions that it is routed to.
* An application that a rollout is about to register is absent, or fits it.
* A version becomes current only if it is deployed with a ready replica at the commit.
* A model that has a current version keeps one as long as it is registered.
* A version is registered as long as it is deployed, current or routed to.
* A version stays deployed as long as it is current or routed to, unless an operator forces it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

from skysail_common.errors import (
    InputTypeMismatch,
    ModelInUse,
    ModelNotFound,
    NoReadyReplica,
)
from skysail_common.identifiers import ModelVersion
from skysail_common.store import Table
from skysail_common.tensors import InputType
from skysail_management.catalog.applications import check_pending
from skysail_management.records import (
    ApplicationRecord,
    DeploymentRecord,
    ModelRecord,
    PendingChange,
    Record,
    Records,
    RecordTable,
    VersionRecord,
)

RecordT = TypeVar("RecordT", bound=Record)


class Rules:
    """Checks the records after a commit against the records before it."""

    def __init__(self, records: Records, num_ready: Callable[[ModelVersion], int]) -> None:
        """Create the rules; `num_ready` returns the number of ready replicas of a version."""
        self._records = records
        self._num_ready = num_ready

    def check(self, changes: Sequence[PendingChange], is_forced: bool) -> None:
        """Check that the changes break no rule.

        Args:
            changes: The changes of the commit.
            is_forced: True if an operator forces the removal of serving versions.

        Raises:
            SkysailError: the changes break a rule and must not be committed.
        """
        after = _After(self._records, changes)
        for change in changes:
            match change.table:
                case Table.APPLICATIONS:
                    self._check_application(after, change.name)
                case Table.MODELS:
                    self._check_model(after, change.name)
                case Table.VERSIONS:
                    self._check_version(after, change.name)
                case Table.DEPLOYMENTS:
                    self._check_deployment(after, change.name, is_forced)

    def _check_application(self, after: "_After", name: str) -> None:
        application = after.application(name)
        before = self._records.applications.get(name)
        if application is not None:
            for version, pending in after.pending_applications(name):
                check_pending(application, pending, version)
        if application is None or (before is not None and before.routes == application.routes):
            return
        for route in application.routes:
            if after.model(route.model) is None:
                raise ModelNotFound(f"model {route.model!r} is not registered")
            versions = [
                record
                for record in after.versions(route.model)
                if route.version in ("", record.version)
            ]
            if not versions:
                raise ModelNotFound(f"model '{route.model}:{route.version}' is not registered")
            for record in versions:
                _check_fits(application, record)

    def _check_model(self, after: "_After", name: str) -> None:
        model = after.model(name)
        before = self._records.models.get(name) or ModelRecord(name=name)
        if model is None:
            return
        if not model.current_version:
            if before.current_version:
                raise ModelInUse(_current(ModelVersion(name, before.current_version)))
        elif model.current_version != before.current_version:
            current = ModelVersion(name, model.current_version)
            if not serves(after.deployment(str(current)), self._num_ready(current)):
                raise NoReadyReplica(unready_text(self._records, current))

    def _check_version(self, after: "_After", name: str) -> None:
        version = after.version(name)
        before = self._records.versions.get(name)
        if version is not None:
            if before is None or before.signature != version.signature:
                expected = (application for _, application in after.pending_applications())
                for application in chain(after.applications(), expected):
                    for route in application.routes:
                        if route.model == version.model and route.version in ("", version.version):
                            _check_fits(application, version)
            return
        if after.deployment(name) is not None:
            raise ModelInUse(
                f"model {name!r} is deployed; undeploy it first: 'skysail undeploy {name}'"
            )
        if before is None:
            return
        use = _route_to(after.applications(), before.model_version, is_current=False)
        model = after.model(before.model)
        if not use and not any(True for _ in after.versions(before.model)):
            use = _route_to(after.applications(), ModelVersion(before.model, ""), is_current=True)
        if use:
            raise ModelInUse(use)
        if model is not None and model.current_version == before.version:
            raise ModelInUse(_current(before.model_version))

    def _check_deployment(self, after: "_After", name: str, is_forced: bool) -> None:
        deployment = after.deployment(name)
        if deployment is not None:
            if after.version(name) is None:
                raise ModelNotFound(f"model {name!r} is deployed but not registered")
            self._check_rollout(after, deployment)
            return
        version = after.version(name)
        if version is None or is_forced:
            return
        model = after.model(version.model)
        is_current = model is not None and model.current_version == version.version
        use = _route_to(after.applications(), version.model_version, is_current=is_current)
        if use or is_current:
            use = use or _current(version.model_version)
            raise ModelInUse(f"{use}, or use force (--force, or force=True in Python)")

    def _check_rollout(self, after: "_After", deployment: DeploymentRecord) -> None:
        """Check the application that the end of a rollout registers, before anything starts."""
        before = self._records.deployments.get(str(deployment.model_version))
        application = deployment.application
        if application is None or (before is not None and before.application == application):
            return
        for version, pending in after.pending_applications(application.name):
            check_pending(application, pending, version)
        for record in after.versions(deployment.model):
            _check_fits(application, record)


class _After:
    """The records after the commit."""

    def __init__(self, records: Records, changes: Sequence[PendingChange]) -> None:
        self._records = records
        self._changes = {(change.table, change.name): change.record for change in changes}

    def application(self, name: str) -> ApplicationRecord | None:
        return self._get(self._records.applications, name)

    def model(self, name: str) -> ModelRecord | None:
        return self._get(self._records.models, name)

    def version(self, name: str) -> VersionRecord | None:
        return self._get(self._records.versions, name)

    def deployment(self, name: str) -> DeploymentRecord | None:
        return self._get(self._records.deployments, name)

    def applications(self) -> Iterator[ApplicationRecord]:
        return self._all(self._records.applications)

    def pending_applications(
        self, name: str = ""
    ) -> Iterator[tuple[ModelVersion, ApplicationRecord]]:
        """Yield what rollouts are about to register, under one name or all."""
        for deployment in self._all(self._records.deployments):
            application = deployment.application
            if application is not None and name in ("", application.name):
                yield deployment.model_version, application

    def versions(self, model: str) -> Iterator[VersionRecord]:
        return (each for each in self._all(self._records.versions) if each.model == model)

    def _get(self, table: RecordTable[RecordT], name: str) -> RecordT | None:
        if (table.table, name) in self._changes:
            return table.narrow(self._changes[table.table, name])
        return table.get(name)

    def _all(self, table: RecordTable[RecordT]) -> Iterator[RecordT]:
        names = {name for kind, name in self._changes if kind is table.table} | table.names()
        for name in sorted(names):
            record = self._get(table, name)
            if record is not None:
                yield record


def serves(deployment: DeploymentRecord | None, num_ready: int) -> bool:
    """Return whether a version answers queries and is not about to stop."""
    return deployment is not None and deployment.num_replicas > 0 and num_ready > 0


def reason_to_keep(records: Records, version: ModelVersion) -> str:
    """Return why a version must stay deployed; empty if nothing depends on it."""
    model = records.models.get(version.model_name)
    if model is not None and model.current_version == version.version:
        return "it is the current version"
    for application in records.applications.all():
        for route in application.routes:
            if (route.model, route.version) == version:
                return f"application {application.name!r} is routed to it"
    return ""


def unready_text(records: Records, version: ModelVersion) -> str:
    """Return the error text for a version without a ready replica, with the fix."""
    return f"model {str(version)!r} has no ready replica: {unready_reason(records, version)}"


def unready_reason(records: Records, version: ModelVersion) -> str:
    """Return why a version has no ready replica, with the fix."""
    deployment = records.deployments.get(str(version))
    if deployment is None:
        return f"it is not deployed; {start_hint(version)}"
    if deployment.num_replicas == 0:
        return f"it is scaled to 0; {start_hint(version)}"
    return f"its replicas are starting or failed; see 'skysail logs {version}'"


def start_hint(version: ModelVersion) -> str:
    """Return how to start replicas of a version."""
    model, name = version
    return f"start it with 'skysail start {version}' or client.start({model!r}, {name!r})"


def check_input_type(
    application: ApplicationRecord, version: ModelVersion, input_type: InputType
) -> None:
    """Check that the input type of an application fits a version.

    Raises:
        InputTypeMismatch: the types differ.
    """
    if application.input_type not in (InputType.TENSORS, input_type):
        raise InputTypeMismatch(
            f"application {application.name!r} takes {application.input_type.name.lower()}, but "
            f"model {str(version)!r} takes {input_type.name.lower()}; deploy the model with "
            f"input_type={application.input_type.name.lower()!r}, or put it behind another "
            "application"
        )


def _check_fits(application: ApplicationRecord, version: VersionRecord) -> None:
    # A version whose inputs are not known yet is checked when a replica has learned them.
    if version.signature.inputs:
        check_input_type(application, version.model_version, version.input_type)


def _route_to(
    applications: Iterator[ApplicationRecord], version: ModelVersion, *, is_current: bool
) -> str:
    for application in applications:
        for route in application.routes:
            is_hit = is_current if not route.version else route.version == version.version
            if route.model == version.model_name and is_hit:
                name = str(version) if version.version else version.model_name
                return (
                    f"application {application.name!r} is routed to model {name!r}; promote another "
                    "version or unlink the application first"
                )
    return ""


def _current(version: ModelVersion) -> str:
    return f"model {str(version)!r} is the current version; promote another version first"

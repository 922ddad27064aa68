"""Models and their immutable versions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone

from skysail_common.errors import (
    AlreadyExists,
    ArtifactNotFound,
    FailedPrecondition,
    InvalidInput,
    ModelNotFound,
    NoReadyReplica,
    SkysailError,
    Unavailable,
)
from skysail_common.identifiers import ModelVersion, check_name
from skysail_management.artifacts.store import ArtifactStore
from skysail_management.catalog.artifact_diff import describe_difference
from skysail_management.catalog.current_version import promotion_changes, roll_back
from skysail_management.catalog.rules import serves, unready_reason, unready_text
from skysail_management.catalog.versions import removal_changes
from skysail_management.reconciler.reconciler import Reconciler
from skysail_management.records import ModelRecord, PendingChange, Records, VersionRecord

_MAX_LABELS = 64
_MAX_LABEL_LENGTH = 1000


class Models:
    """Registers, promotes and removes the versions of models."""

    def __init__(self, records: Records, artifacts: ArtifactStore, reconciler: Reconciler) -> None:
        self._records = records
        self._artifacts = artifacts
        self._reconciler = reconciler

    def get(self, name: str) -> ModelRecord:
        """Return a model.

        Raises:
            ModelNotFound: there is none of this name.
        """
        record = self._records.models.get(name)
        if record is None:
            raise ModelNotFound(f"model {name!r} is not registered")
        return record

    def all(self) -> Sequence[ModelRecord]:
        """Return every model, by name."""
        return self._records.models.all()

    def versions(self, model: str = "") -> Sequence[VersionRecord]:
        """Return the versions of a model, or of all models if it is empty.

        Raises:
            ModelNotFound: no model has this name.
        """
        if model:
            self.get(model)
        return [record for record in self._records.versions.all() if model in ("", record.model)]

    def version(self, model: str, version: str) -> VersionRecord:
        """Return a version; the current one if `version` is empty.

        Raises:
            ModelNotFound: it is not registered, or no version is current.
        """
        name = version or self.get(model).current_version
        if not name:
            raise ModelNotFound(f"model {model!r} has no current version; name one")
        record = self._records.versions.get(f"{model}:{name}")
        if record is None:
            raise ModelNotFound(f"model '{model}:{name}' is not registered")
        return record

    def find(self, version: ModelVersion) -> VersionRecord | None:
        """Return a version by its full name, or None."""
        return self._records.versions.get(str(version))

    def registration(
        self, version: ModelVersion, artifact_sha256: str, labels: Mapping[str, str]
    ) -> tuple[VersionRecord, list[PendingChange]]:
        """Return the record of a version, and the changes that register it or set its labels.

        Raises:
            AlreadyExists: it is registered with another artifact.
            ArtifactNotFound: the artifact was not uploaded.
            InvalidInput: the artifact or a label is invalid.
            ModelNotFound: no artifact is given and the version is not registered.
        """
        ModelVersion.checked(*version)
        existing = self._records.versions.get(str(version))
        if existing is not None:
            return self._merge_labels(existing, artifact_sha256, labels)
        if not artifact_sha256:
            raise ModelNotFound(f"model {str(version)!r} is not registered")
        checked = _check_labels(labels)
        manifest = self._artifacts.manifest(artifact_sha256)
        record = VersionRecord(
            model=version.model_name,
            version=version.version,
            artifact_sha256=artifact_sha256,
            artifact_bytes=self._artifacts.size_bytes(artifact_sha256),
            signature=manifest.signature,
            python_version=manifest.python_version if manifest.is_pickled else "",
            requirements=manifest.requirements,
            takes_params=manifest.takes_params,
            labels=checked,
            registered_at=datetime.now(timezone.utc),
        )
        changes: list[PendingChange] = [self._records.versions.put(str(version), record)]
        if self._records.models.get(version.model_name) is None:
            model = ModelRecord(name=version.model_name)
            changes.append(self._records.models.put(model.name, model))
        return record, changes

    def _merge_labels(
        self, existing: VersionRecord, artifact_sha256: str, labels: Mapping[str, str]
    ) -> tuple[VersionRecord, list[PendingChange]]:
        name = str(existing.model_version)
        if artifact_sha256 not in ("", existing.artifact_sha256):
            raise AlreadyExists(
                f"model {name!r} is registered with other content"
                f"{self._difference(artifact_sha256, existing.artifact_sha256)}; versions never "
                "change, so deploy this as a new version"
            )
        changed = _check_labels({**existing.labels, **labels})
        if changed == existing.labels:
            return existing, []
        record = existing.model_copy(update={"labels": changed})
        return record, [self._records.versions.put(name, record)]

    def _difference(self, given: str, registered: str) -> str:
        try:
            manifests = (self._artifacts.manifest(given), self._artifacts.manifest(registered))
        except (ArtifactNotFound, FailedPrecondition, InvalidInput, Unavailable):
            # The error is complete without the difference.
            return ""
        text = describe_difference(*manifests)
        return f" ({text})" if text else ""

    async def register(
        self, version: ModelVersion, artifact_sha256: str, labels: Mapping[str, str]
    ) -> VersionRecord:
        """Register a version without deploying it; a repeated call changes nothing.

        Raises:
            InputTypeMismatch: an application with a route to the model has another input type.
            SkysailError: as for `registration`.
        """
        with self.pin_artifact(artifact_sha256):
            async with self._records.lock:
                record, changes = self.registration(version, artifact_sha256, labels)
                changes += self._keep_on_failure(version)
                await self._records.commit(changes)
        return record

    def _keep_on_failure(self, version: ModelVersion) -> list[PendingChange]:
        """Return the change that keeps a version if the rollout that registered it fails."""
        deployment = self._records.deployments.get(str(version))
        if deployment is None or not deployment.removes_version_on_failure:
            return []
        kept = deployment.model_copy(update={"removes_version_on_failure": False})
        return [self._records.deployments.put(str(version), kept)]

    @contextmanager
    def pin_artifact(self, sha256: str) -> Iterator[None]:
        """Pin an artifact inside the block; remove an unused one if the operation is rejected."""
        try:
            with self._artifacts.pin(sha256):
                yield
        except Unavailable:
            # The outcome of the operation is unknown.
            raise
        except SkysailError:
            self._sweep_artifacts()
            raise

    def _sweep_artifacts(self) -> None:
        self._artifacts.sweep({record.artifact_sha256 for record in self._records.versions.all()})

    async def unregister(self, model: str) -> None:
        """Remove a model with all its versions.

        Raises:
            ModelNotFound: no model has this name.
            ModelInUse: a version is deployed, or an application is routed to the model.
        """
        async with self._records.lock:
            self.get(model)
            names = [str(record.model_version) for record in self.versions(model)]
            changes: list[PendingChange] = [self._records.versions.delete(name) for name in names]
            changes += [self._records.profiles.delete(name) for name in names]
            await self._records.commit([*changes, self._records.models.delete(model)])
        await self._sweep_and_publish()

    async def unregister_version(self, version: ModelVersion) -> None:
        """Remove a version, and its model with its last version.

        Raises:
            ModelNotFound: it is not registered.
            ModelInUse: it is deployed or current, or an application is routed to it.
        """
        async with self._records.lock:
            self.version(*version)
            changes = removal_changes(self._records, version, keeps_number=True)
            await self._records.commit(changes)
        await self._sweep_and_publish()

    async def _sweep_and_publish(self) -> None:
        self._sweep_artifacts()
        await self._reconciler.publish_routing()

    async def promote(self, version: ModelVersion) -> str:
        """Promote a version and return the version that was current.

        Raises:
            ModelNotFound: it is not registered.
            NoReadyReplica: the version has no ready replica.
        """
        async with self._records.lock:
            self.version(*version)
            model = self.get(version.model_name)
            if not self._serves(version):
                raise NoReadyReplica(unready_text(self._records, version))
            changes = promotion_changes(self._records, version)
            deployment = self._records.deployments.get(str(version))
            if deployment is not None and deployment.promote_when_ready:
                # The promotion is done, so that the end of the rollout must not undo a later
                # rollback.
                done = deployment.model_copy(update={"promote_when_ready": False})
                changes.append(self._records.deployments.put(str(version), done))
            await self._records.commit(changes)
        await self._reconciler.publish_routing()
        return model.current_version

    async def rollback(self, name: str) -> tuple[str, str]:
        """Promote the newest earlier version that has a ready replica.

        Returns:
            The current version, and the previous one.

        Raises:
            ModelNotFound: no model has this name.
            FailedPrecondition: the model has no previous version.
            NoReadyReplica: no previous version has a ready replica.
        """
        async with self._records.lock:
            model = self.get(name)
            if not model.previous_versions:
                raise FailedPrecondition(
                    f"cannot roll back model {name!r}: it has no previous version; promote another "
                    f"version with 'skysail promote {name}:VERSION'"
                )
            changed = roll_back(model, self._serves)
            if changed is None:
                latest = ModelVersion(name, model.previous_versions[-1])
                raise NoReadyReplica(
                    f"cannot roll back model {name!r}: no previous version has a ready replica; the "
                    f"latest is {str(latest)!r}: {unready_reason(self._records, latest)}"
                )
            await self._records.commit([self._records.models.put(name, changed)])
        await self._reconciler.publish_routing()
        return changed.current_version, model.current_version

    def _serves(self, version: ModelVersion) -> bool:
        deployment = self._records.deployments.get(str(version))
        return serves(deployment, self._reconciler.num_ready(version))


def _check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        check_name("label", key)
        if len(value) > _MAX_LABEL_LENGTH:
            raise InvalidInput(f"label {key!r} has more than {_MAX_LABEL_LENGTH} characters")
    if len(labels) > _MAX_LABELS:
        raise InvalidInput(f"a version has at most {_MAX_LABELS} labels")
    return dict(labels)

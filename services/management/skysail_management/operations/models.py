"""Models and their immutable versions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone

from skysail_common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidInput,
    ModelInUse,
    ModelNotFound,
    NoReadyReplica,
    SkysailError,
    Unavailable,
)
from skysail_common.identifiers import ModelVersion, check_name
from skysail_management.artifacts import ArtifactStore
from skysail_management.operations.applications import check_input_type
from skysail_management.reconciler.reconciler import Reconciler
from skysail_management.reconciler.rollout import promoted, removal_of_version
from skysail_management.records import ModelRecord, PendingChange, Records, VersionRecord

_MAX_LABELS = 64


class Models:
    """Registers versions and decides which of them is current."""

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
        """Return the versions of a model, or of all models where it is empty.

        Raises:
            ModelNotFound: there is no model of this name.
        """
        if model:
            self.get(model)
        return [record for record in self._records.versions.all() if model in ("", record.model)]

    def version(self, model: str, version: str) -> VersionRecord:
        """Return a version; the current one where `version` is empty.

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

    def registration(
        self, version: ModelVersion, artifact_sha256: str, labels: Mapping[str, str]
    ) -> tuple[VersionRecord, list[PendingChange]]:
        """Return the record of a version, and the changes that register it if it is new.

        Raises:
            AlreadyExists: it is registered with another artifact.
            ArtifactNotFound: the artifact was not uploaded.
            InvalidInput: the artifact, or a label, is not usable.
            InputTypeMismatch: an application that is routed to the model takes something else.
            ModelNotFound: no artifact is named and the version is not registered.
        """
        ModelVersion.checked(*version)
        existing = self._records.versions.get(str(version))
        if existing is not None:
            if artifact_sha256 not in ("", existing.artifact_sha256):
                raise AlreadyExists(
                    f"model {str(version)!r} is registered with other content; versions never "
                    "change, so deploy this as a new version"
                )
            return existing, []
        if not artifact_sha256:
            raise ModelNotFound(f"model {str(version)!r} is not registered")
        for key in labels:
            check_name("label", key)
        if len(labels) > _MAX_LABELS:
            raise InvalidInput(f"a version has at most {_MAX_LABELS} labels")
        manifest = self._artifacts.manifest(artifact_sha256)
        record = VersionRecord(
            model=version.model_name,
            version=version.version,
            artifact_sha256=artifact_sha256,
            artifact_bytes=self._artifacts.size_bytes(artifact_sha256),
            signature=manifest.signature,
            python_version=manifest.python_version,
            requirements=manifest.requirements,
            labels=dict(labels),
            registered_at=datetime.now(timezone.utc),
        )
        for application in self._records.applications.all():
            for route in application.routes:
                if route.model == version.model_name and not route.version:
                    check_input_type(application, *version, record.input_type)
        changes = [self._records.versions.put(str(version), record)]
        if self._records.models.get(version.model_name) is None:
            model = ModelRecord(name=version.model_name)
            changes.append(self._records.models.put(model.name, model))
        return record, changes

    async def register(
        self, version: ModelVersion, artifact_sha256: str, labels: Mapping[str, str]
    ) -> VersionRecord:
        """Record a version without deploying it; the same again changes nothing.

        Raises:
            SkysailError: as `registration`.
        """
        with self.taking_artifact(artifact_sha256):
            async with self._records.lock:
                record, changes = self.registration(version, artifact_sha256, labels)
                if changes:
                    await self._records.commit(changes)
        return record

    @contextmanager
    def taking_artifact(self, sha256: str) -> Iterator[None]:
        """Remove an artifact that was uploaded for nothing: what is done inside is refused."""
        try:
            yield
        except Unavailable:
            # Whether it was done is not known.
            raise
        except SkysailError:
            self._artifacts.release(sha256)
            self._sweep_artifacts()
            raise
        self._artifacts.release(sha256)

    def _sweep_artifacts(self) -> None:
        self._artifacts.sweep({record.artifact_sha256 for record in self._records.versions.all()})

    async def unregister(self, model: str) -> None:
        """Remove a model with all its versions.

        Raises:
            ModelNotFound: there is no model of this name.
            ModelInUse: a version is deployed, or an application is routed to the model.
        """
        async with self._records.lock:
            self.get(model)
            names = [str(record.model_version) for record in self.versions(model)]
            self._check_unused(model, names)
            changes = [self._records.versions.delete(name) for name in names]
            changes += [self._records.profiles.delete(name) for name in names]
            await self._records.commit([*changes, self._records.models.delete(model)])
        await self._swept()

    async def unregister_version(self, version: ModelVersion) -> None:
        """Remove a version, and its model with the last version of it.

        Raises:
            ModelNotFound: it is not registered.
            ModelInUse: it is deployed, or an application is routed to it.
        """
        async with self._records.lock:
            self.version(*version)
            others = self.versions(version.model_name)
            self._check_unused(
                version.model_name, [str(version)], is_last=len(others) == 1, only=version.version
            )
            await self._records.commit(removal_of_version(self._records, version))
        await self._swept()

    def _check_unused(
        self, model: str, names: Sequence[str], is_last: bool = True, only: str = ""
    ) -> None:
        for name in names:
            if self._records.deployments.get(name) is not None:
                raise ModelInUse(f"model {name!r} is deployed; undeploy it first")
        for application in self._records.applications.all():
            for route in application.routes:
                is_hit = is_last if not route.version else not only or route.version == only
                if route.model == model and is_hit:
                    raise ModelInUse(
                        f"application {application.name!r} is routed to model {model!r}; unlink "
                        "the application first"
                    )

    async def _swept(self) -> None:
        self._sweep_artifacts()
        await self._reconciler.routing_changed()

    async def promote(self, version: ModelVersion) -> str:
        """Make a version the current one and return the version that was.

        Raises:
            ModelNotFound: it is not registered.
            NoReadyReplica: none of its replicas could answer.
        """
        async with self._records.lock:
            self.version(*version)
            model = self.get(version.model_name)
            self._check_ready(version)
            if model.current_version != version.version:
                changed = promoted(model, version)
                await self._records.commit([self._records.models.put(model.name, changed)])
        await self._reconciler.routing_changed()
        return model.current_version

    async def rollback(self, name: str) -> tuple[str, str]:
        """Make the version before the current one current again.

        Returns:
            The version that is current now, and the one that was.

        Raises:
            ModelNotFound: there is no model of this name.
            FailedPrecondition: no version was current before.
            NoReadyReplica: none of its replicas could answer.
        """
        async with self._records.lock:
            model = self.get(name)
            if not model.previous_versions:
                raise FailedPrecondition(f"model {name!r} has no previous version to go back to")
            *earlier, target = model.previous_versions
            self._check_ready(ModelVersion(name, target))
            # The version that is left does not join the history: another rollback goes further
            # back.
            update = {"current_version": target, "previous_versions": tuple(earlier)}
            changed = model.model_copy(update=update)
            await self._records.commit([self._records.models.put(name, changed)])
        await self._reconciler.routing_changed()
        return target, model.current_version

    def _check_ready(self, version: ModelVersion) -> None:
        if self._reconciler.num_ready(version) == 0:
            raise NoReadyReplica(
                f"model {str(version)!r} has no ready replica; deploy or scale it first"
            )

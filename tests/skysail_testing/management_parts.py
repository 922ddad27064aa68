"""Management without a network: the real components on an in-memory store and containers."""

import hashlib
import io
import platform
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from skysail_common.artifacts import (
    MANIFEST_FILE,
    MODEL_FILE,
    Blob,
    Manifest,
    SignatureRecord,
    to_json,
)
from skysail_common.identifiers import ModelVersion
from skysail_common.model_functions import LIST_OUTPUT
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.resources import ResourceChanges
from skysail_common.store import Store
from skysail_common.tensors import CLIPPER_SPECS, InputType, Signature
from skysail_management.artifacts.store import ArtifactStore
from skysail_management.catalog.deployment_specs import DeploymentSpec
from skysail_management.catalog.rules import Rules
from skysail_management.events import DeployEvent, DeployEvents, DeployStep
from skysail_management.operations.applications import Applications
from skysail_management.operations.deployments import DeploymentDefaults, Deployments
from skysail_management.operations.models import Models
from skysail_management.reconciler.reconciler import Reconciler
from skysail_management.reconciler.specs import ReconcilerOptions
from skysail_management.records import DeploymentRecord, Records
from skysail_management.routing import Routing
from skysail_testing.fake_containers import FakeContainerManager
from skysail_testing.keywords import take_resources
from skysail_testing.memory_store import MemoryStore
from skysail_testing.virtual_time import now

MAX_ARTIFACT_BYTES = 10_000


def signature_of(input_type: InputType = InputType.DOUBLES) -> Signature:
    """Return the signature of a function of a list of inputs."""
    return Signature((CLIPPER_SPECS[input_type],), (LIST_OUTPUT,))


def make_artifact(
    content: str = "",
    input_type: InputType = InputType.DOUBLES,
    requirements: Sequence[str] = (),
    packages: Mapping[str, str] | None = None,
    signature: Signature | None = None,
) -> bytes:
    """Return a valid artifact; `content` makes its digest unique."""
    manifest = Manifest(
        skysail_version="0",
        python_version=platform.python_version(),
        packages=dict(packages or {}),
        requirements=tuple(requirements),
        signature=SignatureRecord.of(signature or signature_of(input_type)),
        calling="list",
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(MANIFEST_FILE), manifest.model_dump_json())
        archive.writestr(zipfile.ZipInfo(MODEL_FILE), content)
    return buffer.getvalue()


def make_manifest(files: Mapping[str, bytes], **changes: Any) -> bytes:
    """Return the manifest of an artifact of format 2 with these files; `changes` replace fields."""
    blobs = [
        Blob(path=path, sha256=sha256_of(content), size_bytes=len(content))
        for path, content in files.items()
    ]
    manifest = Manifest(
        skysail_version="0",
        python_version=platform.python_version(),
        signature=SignatureRecord.of(signature_of()),
        calling="list",
        blobs=tuple(blobs),
    )
    return to_json({**manifest.model_dump(mode="json"), **changes}).encode()


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def chunked(content: bytes, size: int = 100) -> AsyncIterator[bytes]:
    """Yield content in chunks, as an upload does."""
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


class ManagementParts:
    """All components of one management, wired as in `app`."""

    def __init__(self, directory: Path, store: MemoryStore, manager: FakeContainerManager) -> None:
        self.store = store
        self.failures: list[BaseException] = []
        """Exceptions of background tasks, each of which would end the process."""
        self.tasks = BackgroundTasks(self.failures.append)
        self.manager = manager
        self.records = Records(cast(Store, store))
        self.artifacts = ArtifactStore(directory, MAX_ARTIFACT_BYTES, now)
        self.events = DeployEvents()
        self.routing = Routing(self.records)
        options = ReconcilerOptions(
            management_endpoint="127.0.0.1:1",
            secret="secret",
            prepare_timeout_s=900.0,
            drain_timeout_s=30.0,
            stuck_after_s=300.0,
            check_health_s=10.0,
            warm_up_s=0.5,
            log_format="console",
        )
        self.reconciler = Reconciler(
            self.records,
            manager,
            self.artifacts,
            self.events,
            self.routing,
            options,
            now,
            self.tasks,
            manager.describe,
        )
        self.records.check = Rules(self.records, self.reconciler.num_ready).check
        self.applications = Applications(self.records, self.reconciler)
        self.models = Models(self.records, self.artifacts, self.reconciler)
        self.deployments = Deployments(
            self.records,
            self.models,
            self.reconciler,
            manager,
            self.events,
            DeploymentDefaults(max_batch_size=64, start_timeout_s=60.0, prepare_timeout_s=900.0),
        )

    async def upload(self, content: bytes) -> str:
        """Store an artifact and return its digest."""
        await self.artifacts.add(sha256_of(content), chunked(content))
        return sha256_of(content)

    async def register(self, name: str, input_type: InputType = InputType.DOUBLES) -> str:
        """Register a version such as `m:1` and return the digest of its artifact."""
        sha256 = await self.upload(make_artifact(name, input_type))
        await self.models.register(ModelVersion.parse(name), sha256, {})
        return sha256

    def deploying(self, name: str, sha256: str = "", **spec: Any) -> AsyncIterator[DeployEvent]:
        """Deploy a version such as `m:1`, by default without promotion; return its events."""
        spec.setdefault("promote", False)
        # The name `m:` lets the server choose the version.
        model, _, version = name.partition(":")
        resources = take_resources(spec, ResourceChanges())
        return self.deployments.deploy(
            ModelVersion(model, version),
            DeploymentSpec(artifact_sha256=sha256, resources=resources, **spec),
        )

    async def deploy(self, name: str, sha256: str = "", **spec: Any) -> list[DeployEvent]:
        """Deploy a version to the end and return all events."""
        is_known = self.records.versions.get(name) is not None
        if not sha256 and not is_known and not name.endswith(":"):
            sha256 = await self.upload(make_artifact(name))
        return [event async for event in self.deploying(name, sha256, **spec)]

    async def deployed(self, name: str, **spec: Any) -> None:
        """Deploy a version and require success."""
        events = await self.deploy(name, **spec)
        assert events[-1].step is DeployStep.DONE, events[-1]

    def deployment(self, name: str) -> DeploymentRecord:
        record = self.records.deployments.get(name)
        assert record is not None
        return record


@asynccontextmanager
async def running_parts(
    directory: Path,
    store: MemoryStore | None = None,
    manager: FakeContainerManager | None = None,
) -> AsyncIterator[ManagementParts]:
    """Run a reconciler inside the `async with` block."""
    parts = ManagementParts(directory, store or MemoryStore(), manager or FakeContainerManager())
    await parts.records.load()
    await parts.reconciler.start()
    try:
        yield parts
        assert parts.failures == []
    finally:
        await parts.reconciler.stop()

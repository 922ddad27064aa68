"""The desired state, as records of the store with a mirror in memory."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from skysail_common.artifacts import SignatureRecord
from skysail_common.errors import Conflict, SkysailError, StoreTaken
from skysail_common.identifiers import ModelVersion
from skysail_common.process.backoff import BackOff
from skysail_common.resources import Resources
from skysail_common.serving_options import ServingOptions
from skysail_common.store import Contents, RecordChange, Store, Stored, Table
from skysail_common.store.store import ABSENT
from skysail_common.tensors import InputType, Signature
from skysail_management.audit import log_change

_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 1.0


class Record(BaseModel):
    """An immutable value of the store; a change creates a new record."""

    # A record of a newer Skysail may have fields that this version does not know.
    model_config = ConfigDict(frozen=True, extra="ignore")


class RouteRecord(Record):
    """A route from an application to a model; an empty version means the current one."""

    model: str
    version: str = ""
    weight: float = 1.0


class ApplicationRecord(Record):
    """An application, which clients address."""

    name: str
    input_type: InputType
    slo_s: float
    default_output_json: str | None = None
    bypasses_cache: bool = False
    routes: tuple[RouteRecord, ...] = ()


class ModelRecord(Record):
    """A family of versions, one of which is current."""

    name: str
    current_version: str = ""
    previous_versions: tuple[str, ...] = ()
    """Versions that were current before, the latest last."""
    last_number: int = 0
    """Highest number of an unregistered version, which the server does not reuse."""


class AutoscalingRecord(Record):
    """The bounds of an autoscaled number of replicas."""

    min_replicas: int
    max_replicas: int


_RESOURCES = tuple(field.name for field in fields(Resources))


class DeploymentRecord(Record):
    """The desired state of a model version."""

    model: str
    version: str
    num_replicas: int
    resources: Resources = Resources()
    environment: dict[str, str] = {}
    autoscaling: AutoscalingRecord | None = None
    """None if operators set the number of replicas."""
    serving: ServingOptions = ServingOptions()
    start_timeout_s: float
    warm_up: bool = True
    """False if replicas skip the warm-up call before they are ready."""
    is_rolled_out: bool = False
    """True after all replicas were ready once."""
    promote_when_ready: bool = False
    removes_version_on_failure: bool = False
    """True if the rollout registered the version, so that its failure removes the version."""
    application: ApplicationRecord | None = None
    """Application that the commit which completes the rollout registers; None if none is due."""

    @model_validator(mode="before")
    @classmethod
    def _nest_resources(cls, values: Any) -> Any:
        # The store has each resource as a field of the deployment, which every Skysail can read.
        if not isinstance(values, dict) or "resources" in values:
            return values
        rest = {name: value for name, value in values.items() if name not in _RESOURCES}
        resources = {name: values[name] for name in _RESOURCES if name in values}
        return {**rest, "resources": resources}

    @model_serializer(mode="wrap")
    def _flatten_resources(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        return {**values.pop("resources"), **values}

    @property
    def model_version(self) -> ModelVersion:
        """The name of the version."""
        return ModelVersion(self.model, self.version)


class VersionRecord(Record):
    """One immutable artifact of a model."""

    model: str
    version: str
    artifact_sha256: str
    artifact_bytes: int
    signature: SignatureRecord
    python_version: str
    requirements: tuple[str, ...] = ()
    takes_params: bool = False
    labels: dict[str, str] = {}
    registered_at: datetime
    was_current: bool = False
    """True after the first promotion."""
    last_deployment: DeploymentRecord | None = None
    """The deployment at the last undeploy."""

    @property
    def model_version(self) -> ModelVersion:
        """The name of this version."""
        return ModelVersion(self.model, self.version)

    @property
    def input_type(self) -> InputType:
        """The type of its inputs."""
        return self.to_signature().input_type

    def to_signature(self) -> Signature:
        """Return its signature."""
        return self.signature.signature()


class ProfileRecord(Record):
    """The latency profile of a model version, learned by frontends."""

    latencies: tuple[tuple[int, float], ...]
    """Rows and seconds, both ascending."""


RecordT = TypeVar("RecordT", bound=Record)


class RecordTable(Generic[RecordT]):
    """The mirror of one table of the store."""

    def __init__(self, table: Table, record_type: type[RecordT]) -> None:
        self.table = table
        self._type = record_type
        self._rows: dict[str, tuple[int, RecordT]] = {}

    def get(self, name: str) -> RecordT | None:
        """Return the record of this name, or None."""
        row = self._rows.get(name)
        return row[1] if row else None

    def all(self) -> list[RecordT]:
        """Return every record, by name."""
        return [self._rows[name][1] for name in sorted(self._rows)]

    def names(self) -> set[str]:
        """Return the name of every record."""
        return set(self._rows)

    def narrow(self, record: Record | None) -> RecordT | None:
        """Return the record of a change of this table, with its type."""
        assert record is None or isinstance(record, self._type)
        return record

    def put(self, name: str, record: RecordT) -> "PendingChange":
        """Return the change that writes a record, unless another writer is first."""
        return PendingChange(self, name, self._revision(name), record)

    def delete(self, name: str) -> "PendingChange":
        """Return the change that removes a record, unless another writer is first."""
        return PendingChange(self, name, self._revision(name), None)

    def _revision(self, name: str) -> int:
        return self._rows[name][0] if name in self._rows else ABSENT

    def load(self, rows: Mapping[str, Stored]) -> None:
        """Replace the mirror by the contents of the store."""
        self._rows = {
            name: (stored.revision, self._type.model_validate_json(stored.json))
            for name, stored in rows.items()
        }

    def contents(self) -> dict[str, Stored]:
        """Return the mirror in the form of the store."""
        return {
            name: Stored(revision, record.model_dump_json())
            for name, (revision, record) in self._rows.items()
        }

    def apply(self, name: str, revision: int, record: Record | None) -> None:
        """Apply a committed change."""
        mine = self.narrow(record)
        if mine is None:
            self._rows.pop(name, None)
        else:
            self._rows[name] = (revision, mine)


class PendingChange:
    """A change that awaits `Records.commit`."""

    def __init__(
        self,
        table: "RecordTable[RecordT]",
        name: str,
        expected_revision: int,
        record: Record | None,
    ) -> None:
        self.table = table.table
        self.name = name
        self.record = record
        self.revision = expected_revision
        self.before = table.get(name)
        self._table = table

    def to_change(self) -> RecordChange:
        """Return the change in the form of the store."""
        json = None if self.record is None else self.record.model_dump_json()
        return RecordChange(self.table, self.name, self.revision, json)

    def apply(self, revision: int) -> None:
        """Apply the change to the mirror."""
        self._table.apply(self.name, revision, self.record)


class Check(Protocol):
    """Rejects changes that break a rule."""

    def __call__(self, changes: Sequence[PendingChange], is_forced: bool) -> None:
        """Check that the changes may be committed.

        Raises:
            SkysailError: a rule is broken.
        """


class Records:
    """All records of the cluster.

    Reads use the mirror and never wait. A commit first writes to the store, so that the mirror
    shows only durable data. A store that lost its data never empties the mirror.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.check: Check | None = None
        """Called before each commit."""
        self._stale = asyncio.Event()
        self._stale.set()
        self._revision = 0
        self._on_change: Callable[[], None] = lambda: None
        self.lock = asyncio.Lock()
        """Held from the checks of a change to its commit, which detects conflicts only in the
        records that it writes."""
        self.applications = RecordTable(Table.APPLICATIONS, ApplicationRecord)
        self.models = RecordTable(Table.MODELS, ModelRecord)
        self.versions = RecordTable(Table.VERSIONS, VersionRecord)
        self.deployments = RecordTable(Table.DEPLOYMENTS, DeploymentRecord)
        self.profiles = RecordTable(Table.PROFILES, ProfileRecord)
        self._tables: list[RecordTable[Any]] = [
            self.applications, self.models, self.versions, self.deployments, self.profiles,
        ]  # fmt: skip

    async def load(self) -> None:
        """Fill the mirror from the store.

        Raises:
            StoreUnavailable: the store does not answer.
            StoreLost: it lost data; the mirror is unchanged.
            StoreTaken: another management owns it.
        """
        self._stale.clear()
        try:
            contents = await self._store.read()
            # Records older than the own commit must not hide it.
            while contents.revision < self._revision:
                contents = await self._store.read()
        except BaseException:
            self._stale.set()
            raise
        for table in self._tables:
            table.load(contents.tables[table.table])

    async def keep_fresh(self, on_change: Callable[[], None]) -> None:
        """Reload the mirror, and call `on_change`, whenever it may differ from the store.

        Raises:
            StoreTaken: another management owns the store.
        """
        self._on_change = on_change
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            await self._stale.wait()
            try:
                await self.load()
            except StoreTaken:
                raise
            except SkysailError:
                # `StoreKeeper` reports the failure to operators.
                await asyncio.sleep(back_off.next_s())
            else:
                back_off.reset()
                on_change()

    def mark_stale(self) -> None:
        """Request a reload, because the store may differ from the mirror."""
        self._stale.set()

    async def commit(
        self, changes: Iterable[PendingChange], *, is_forced: bool = False, why: str = ""
    ) -> None:
        """Write all changes atomically and log them; without changes, do nothing.

        Args:
            changes: Changes that were created under the lock.
            is_forced: True if an operator forces the removal of serving versions.
            why: Reason for the log.

        Raises:
            SkysailError: the changes break a rule; nothing was changed.
            Conflict: another writer changed one of the records first; nothing was changed, and the
                mirror shows its values.
            StoreTaken: another management owns the store; nothing was changed.
            StoreLost: the store lost data; nothing was changed, and the mirror is unchanged.
            StoreUnavailable: the store does not answer; the mirror is reloaded when it does,
                because it may have made the changes.
        """
        pending = list(changes)
        if not pending:
            return
        if self.check is not None:
            self.check(pending, is_forced)
        try:
            revision = await self._store.commit([change.to_change() for change in pending])
        except Conflict:
            await self.load()
            self._on_change()
            raise
        except BaseException:
            # The reload happens even if the caller disconnects, because the store may have made the
            # changes.
            self._stale.set()
            raise
        self._revision = max(self._revision, revision)
        for change in pending:
            change.apply(revision)
            log_change(change.table, change.name, change.before, change.record, why)

    async def restore(self) -> int:
        """Write the mirror into a store that lost data, and return the number of records.

        Raises:
            StoreTaken: another management owns the store.
            StoreLost: it holds the data of another cluster.
            StoreUnavailable: it does not answer.
        """
        async with self.lock:
            tables = {table.table: table.contents() for table in self._tables}
            await self._store.restore(Contents(self._revision, tables))
        self._stale.set()
        return sum(len(rows) for rows in tables.values())

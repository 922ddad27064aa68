"""Views of the objects of a cluster, as plain values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from skysail_common.replica_description import PackageDifference
from skysail_common.rpc.messages import (
    difference_from_proto,
    serving_from_proto,
    signature_from_proto,
)
from skysail_common.serving_options import ServingOptions
from skysail_common.tensors import Content, InputType, Signature, TensorSpec
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import routing_pb2

_MAX_LISTED = 8


@dataclass(frozen=True)
class Route:
    """An edge from an application to a model; an empty version is the current one."""

    model: str
    version: str = ""
    weight: float = 1.0

    @classmethod
    def of(cls, message: routing_pb2.Route) -> "Route":
        """Return the value of a message."""
        return cls(message.model, message.version, message.weight)


@dataclass(frozen=True)
class Application:
    """An application: the name that clients query, with its SLO and routes."""

    name: str
    input_type: str
    slo_ms: float
    default_output: Any
    """None if there is no default output, too; see `has_default`."""
    has_default: bool
    routes: tuple[Route, ...]

    @classmethod
    def of(cls, message: pb.Application) -> "Application":
        """Return the value of a message."""
        has_default = message.HasField("default_output_json")
        return cls(
            name=message.name,
            input_type=InputType(message.input_type).name.lower(),
            slo_ms=_seconds(message.slo) * 1000,
            default_output=json.loads(message.default_output_json) if has_default else None,
            has_default=has_default,
            routes=tuple(Route.of(route) for route in message.routes),
        )


@dataclass(frozen=True)
class Replica:
    """One running copy of a model version."""

    replica_id: str
    container_id: str
    state: str
    """`PENDING`, `STARTING`, `READY`, `DRAINING`, `STOPPED` or `FAILED`."""
    reason: str
    endpoint: str
    num_restarts: int
    started_at: datetime | None

    @classmethod
    def of(cls, message: pb.Replica) -> "Replica":
        """Return the value of a message."""
        return cls(
            message.replica_id,
            message.container_id,
            _enum_name(pb.ReplicaState, message.state, "REPLICA_STATE_"),
            message.reason,
            message.endpoint,
            message.num_restarts,
            _moment(message.started_at) if message.HasField("started_at") else None,
        )


@dataclass(frozen=True)
class Autoscaling:
    """Bounds between which the number of replicas follows the load."""

    min_replicas: int
    max_replicas: int

    @classmethod
    def of(cls, message: pb.Autoscaling) -> "Autoscaling":
        """Return the value of a message."""
        return cls(message.min_replicas, message.max_replicas)


@dataclass(frozen=True)
class Deployment:
    """The desired state of a model version."""

    num_replicas: int
    num_threads: int
    memory_mib: int
    cpus: float
    gpus: float
    environment_names: tuple[str, ...]
    """Names of the environment variables; a cluster never shows their values."""
    serving: ServingOptions
    is_rolled_out: bool
    autoscaling: Autoscaling | None
    """None if the number of replicas is fixed."""
    warm_up: bool
    """True if replicas call the model on its example before they are ready."""

    @classmethod
    def of(cls, message: pb.Deployment) -> "Deployment":
        """Return the value of a message."""
        return cls(
            message.num_replicas,
            message.resources.num_threads,
            message.resources.memory_mib,
            message.resources.cpus,
            message.resources.gpus,
            tuple(message.environment_names),
            serving_from_proto(message.serving, ServingOptions().max_batch_size),
            message.rollout_state == pb.ROLLOUT_STATE_COMPLETE,
            Autoscaling.of(message.autoscaling) if message.HasField("autoscaling") else None,
            message.warm_up,
        )


def outputs_in_words(signature: Signature) -> str:
    """Return the names, datatypes and shapes of outputs."""
    return _in_words(signature.outputs, has_shapes=True)


def inputs_in_words(signature: Signature) -> str:
    """Return the names, datatypes and shapes of inputs; columns of data frames have no shapes."""
    if signature.frame:
        columns = _in_words(signature.inputs, has_shapes=False)
        return f"a data frame of {signature.frame} with {columns}"
    return _in_words(signature.inputs, has_shapes=True)


def _in_words(specs: Sequence[TensorSpec], *, has_shapes: bool) -> str:
    # Times have the name of their content; a mask is a part of its tensor.
    words = ", ".join(
        f"{spec.name} {spec.content.name if spec.content.dtype else spec.datatype.name}"
        + (f" {list(spec.shape)}" if has_shapes else "")
        for spec in specs
        if spec.content is not Content.NULL_MASK
    )
    return words or "not known yet"


@dataclass(frozen=True)
class Version:
    """One immutable artifact of a model, with its desired and observed state."""

    model: str
    version: str
    artifact_sha256: str
    signature: Signature
    """Inputs and outputs; empty until the first replica has learned them, if only it can run the
    model."""
    input_type: str
    labels: Mapping[str, str]
    registered_at: datetime
    python_version: str
    """Python that replicas need up to its minor part, such as 3.11.7; empty if any loads the model."""
    requirements: tuple[str, ...]
    deployment: Deployment | None
    """None if the version is not deployed."""
    replicas: tuple[Replica, ...]
    is_current: bool = False
    """True if it answers queries that name no version."""
    package_differences: tuple[PackageDifference, ...] = ()
    """Packages whose version in a live replica is not that of the machine of the deploy."""

    @property
    def num_ready(self) -> int:
        """Number of replicas that take batches."""
        return sum(replica.state == "READY" for replica in self.replicas)

    @property
    def not_current(self) -> str:
        """A sentence about how to make the version current; empty if it is."""
        if self.is_current:
            return ""
        name = f"{self.model}:{self.version}"
        return (
            f"{name} is not the current version and answers only queries that name it; 'skysail "
            f"promote {name}' or promote=True makes it the current one"
        )

    def __repr__(self) -> str:
        if self.deployment is None:
            state = "not deployed"
        else:
            state = f"{self.num_ready} of {self.deployment.num_replicas} replicas ready"
            if limits := self.deployment.autoscaling:
                state += f" ({limits.min_replicas} to {limits.max_replicas} with its load)"
        if self.is_current:
            state += ", current"
        inputs, outputs = self.signature.inputs, self.signature.outputs
        takes = f"takes {inputs_in_words(self.signature)}" if inputs else "inputs not known yet"
        takes += "" if outputs else ", outputs not known yet"
        return f"<Version {self.model}:{self.version}, {state}, {takes}>"

    @classmethod
    def of(cls, message: pb.Version) -> "Version":
        """Return the value of a message."""
        is_deployed = message.HasField("deployment")
        return cls(
            model=message.model,
            version=message.version,
            artifact_sha256=message.artifact_sha256,
            signature=signature_from_proto(message.signature),
            input_type=InputType(message.input_type).name.lower(),
            labels=dict(message.labels),
            registered_at=_moment(message.registered_at),
            python_version=message.python_version,
            requirements=tuple(message.requirements),
            deployment=Deployment.of(message.deployment) if is_deployed else None,
            replicas=tuple(Replica.of(replica) for replica in message.replicas),
            is_current=message.is_current,
            package_differences=tuple(map(difference_from_proto, message.package_differences)),
        )


@dataclass(frozen=True)
class Model:
    """A family of versions under one name."""

    name: str
    current_version: str
    """Empty if no version was promoted."""
    previous_versions: tuple[str, ...]
    versions: tuple[Version, ...]

    def __repr__(self) -> str:
        versions = ", ".join(version.version for version in self.versions)
        return f"<Model {self.name}, versions {versions}, current {self.current_version or 'none'}>"

    @classmethod
    def of(cls, message: pb.Model) -> "Model":
        """Return the value of a message."""
        return cls(
            message.name,
            message.current_version,
            tuple(message.previous_versions),
            tuple(Version.of(version) for version in message.versions),
        )


@dataclass(frozen=True)
class Frontend:
    """A frontend that is connected to management."""

    frontend_id: str
    grpc_endpoint: str
    http_endpoint: str
    transport: str = ""
    """Transport of its gRPC services: `native`, or the slower `grpc`."""


@dataclass(frozen=True)
class ClusterStatus:
    """The state of a cluster."""

    cluster: str
    skysail_version: str
    container_manager: str
    is_store_reachable: bool
    applications: tuple[Application, ...]
    models: tuple[Model, ...]
    frontends: tuple[Frontend, ...]
    store_problem: str = ""
    """Cause of a problem with the store, and its fix; empty without a problem."""

    def __repr__(self) -> str:
        store = "" if self.is_store_reachable else ", store not reachable"
        if self.is_store_reachable and self.store_problem:
            store = f", {self.store_problem}"
        models = [
            f"{model.name}:{model.current_version or 'none'} "
            f"({sum(version.num_ready for version in model.versions)} replicas ready)"
            for model in self.models
        ]
        applications = [application.name for application in self.applications]
        return (
            f"<ClusterStatus {self.cluster}, models {_listed(models)}, applications "
            f"{_listed(applications)}, frontends {len(self.frontends)}{store}>"
        )

    @classmethod
    def of(cls, message: pb.GetClusterStatusResponse) -> "ClusterStatus":
        """Return the value of a message."""
        return cls(
            message.cluster,
            message.skysail_version,
            message.container_manager,
            message.is_store_reachable,
            tuple(Application.of(each) for each in message.applications),
            tuple(Model.of(each) for each in message.models),
            tuple(
                Frontend(each.frontend_id, each.grpc_endpoint, each.http_endpoint, each.transport)
                for each in message.frontends
            ),
            message.store_problem,
        )


@dataclass(frozen=True)
class DeployEvent:
    """One event of a deployment."""

    step: str
    """`UPLOADING`, `REGISTERED`, `NOTICE`, `PREPARING`, `STARTING`, `READY`, `RETRYING`, `PROMOTED`,
    `ROUTED`, `DONE` or `FAILED`."""
    message: str
    replica_id: str
    log_tail: str
    num_ready: int
    num_replicas: int
    version: str = ""
    bytes_done: int = 0
    """Bytes sent, of an event `UPLOADING`."""
    bytes_total: int = 0
    """Bytes to send, of an event `UPLOADING`: those that the cluster lacks."""

    @classmethod
    def of(cls, message: pb.DeployEvent) -> "DeployEvent":
        """Return the value of a message."""
        return cls(
            _enum_name(pb.DeployStep, message.step, "DEPLOY_STEP_"),
            message.message,
            message.replica_id,
            message.log_tail,
            message.num_ready,
            message.num_replicas,
            message.version,
        )


@dataclass(frozen=True)
class LogLine:
    """One line of the log of a replica."""

    replica_id: str
    line: str


def _listed(names: Sequence[str]) -> str:
    """Return the first names for people, and the number of others."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"[{', '.join(names[:_MAX_LISTED])}{more}]"


def _enum_name(enum: Any, number: int, prefix: str) -> str:
    # A newer server may send values that this client does not have.
    name = enum.Name(number) if number in enum.values() else str(number)
    return str(name).removeprefix(prefix)


def _seconds(message: Duration) -> float:
    return message.seconds + message.nanos / 1e9


def _moment(message: Timestamp) -> datetime:
    return message.ToDatetime(timezone.utc)

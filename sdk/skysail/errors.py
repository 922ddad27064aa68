"""The errors that a client raises: the server's own classes."""

from skysail_common.errors import (
    AlreadyExists,
    ApplicationNotFound,
    ArtifactNotFound,
    Conflict,
    ContainerManagerUnavailable,
    DeadlineExceeded,
    DeployFailed,
    FailedPrecondition,
    InputTypeMismatch,
    InvalidInput,
    ModelFailed,
    ModelInUse,
    ModelNotFound,
    NoReadyReplica,
    NotFound,
    Overloaded,
    ReplicaNotFound,
    SkysailError,
    Status,
    StoreUnavailable,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

__all__ = [
    "AlreadyExists",
    "ApplicationNotFound",
    "ArtifactNotFound",
    "Conflict",
    "ContainerManagerUnavailable",
    "DeadlineExceeded",
    "DeployFailed",
    "FailedPrecondition",
    "InputTypeMismatch",
    "InvalidInput",
    "ModelFailed",
    "ModelInUse",
    "ModelNotFound",
    "NoReadyReplica",
    "NotFound",
    "Overloaded",
    "ReplicaNotFound",
    "SkysailError",
    "Status",
    "StoreUnavailable",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
]

# Tracebacks then name the place where users find them.
for _name in __all__:
    globals()[_name].__module__ = __name__

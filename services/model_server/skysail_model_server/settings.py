"""Settings of a model server, which the container manager sets."""

import os
from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from skysail_common.process.settings import ServiceSettings
from skysail_common.rpc.transports import VARIABLE, TransportName


class ModelServerSettings(ServiceSettings):
    """Settings of `python -m skysail_model_server`."""

    model_config = SettingsConfigDict(env_prefix="SKYSAIL_MODEL_SERVER_")

    management_endpoint: str = ""
    """Endpoint of management, as host:port, from which the replica fetches the artifact if
    `artifact-file` is not set."""

    replica_id: str
    """Id of this replica, such as sum:3/0."""

    token: SecretStr = SecretStr("")
    """Token that proves the model version of this replica to management."""

    artifact_file: Path | None = None
    """File of the artifact, such as in the image of a version; the replica then fetches nothing."""

    artifact_sha256: str = ""
    """SHA-256 that a fetched artifact must have; any if empty."""

    listen_address: str = "127.0.0.1:8005"
    """Address to listen on: host:port or unix:/path."""

    transport: TransportName = Field("auto", validation_alias=VARIABLE)
    """Transport of gRPC: `native` (the package skysail-transport), `grpc` (grpc.aio), or `auto`
    (native if it is installed)."""

    work_dir: Path = Path()
    """Directory for the user's modules; must be writable."""

    log_file: Path | None = None
    """File for standard output and error, which rotates at `log-max-mib`; no redirection if none."""

    log_max_mib: int = Field(10, ge=1)
    """Size at which the log file rotates; one older file stays."""

    num_threads: int = Field(1, ge=1)
    """Threads that the numeric libraries may use, for models that set them by themselves."""

    memory_limit_mib: int = Field(0, ge=0)
    """Memory limit of the process; 0 for no limit."""

    fetch_timeout_s: float = Field(120.0, gt=0)
    """Longest time to fetch the artifact, retries included."""

    warm_up: bool = True
    """Call the function with its example before the replica is ready, and measure its speed."""

    warm_up_s: float = Field(0.5, ge=0)
    """Time for calls that measure the speed, after the call with the example, whose time is not
    limited. 0 for the example alone."""

    warm_up_max_rows: int = Field(64, ge=1)
    """Largest number of rows of a call that measures the speed."""

    stuck_after_s: float = Field(300.0, ge=0)
    """Time after which a call of the function counts as stuck, if it also takes 20 times as long as
    expected; the replica then ends, and another replaces it. 0 for never."""

    max_queued_batches: int = Field(64, ge=1)
    """Largest number of waiting batches of one stream on grpc.aio; a full stream is not read. The
    limit of the native transport is 1 MiB of batches."""

    @model_validator(mode="after")
    def _has_an_artifact(self) -> "ModelServerSettings":
        if self.artifact_file is None and not (self.management_endpoint and self.token):
            raise ValueError("set artifact-file, or both management-endpoint and token")
        return self


def requirements_text() -> str:
    """Return the requirements for `skysail_model_server.installer`; may be empty."""
    return os.environ.get("SKYSAIL_REQUIREMENTS", "")

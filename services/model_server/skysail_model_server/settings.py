"""Settings of a model server, which the container manager sets."""

import os
from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from skysail_common.process.settings import ServiceSettings
from skysail_common.rpc.transports import VARIABLE, TransportName
from skysail_model_server.artifact_download import DownloadOptions
from skysail_model_server.management_downloads import ArtifactAccess


class ModelServerSettings(ServiceSettings):
    """Settings of `python -m skysail_model_server`."""

    model_config = SettingsConfigDict(env_prefix="SKYSAIL_MODEL_SERVER_")

    management_endpoint: str = ""
    """Endpoint of management, as host:port, from which the replica fetches the artifact if
    `artifact-dir` is not set."""

    replica_id: str
    """Id of this replica, such as sum:3/0."""

    token: SecretStr = SecretStr("")
    """Token that proves the model version of this replica to management."""

    artifact_dir: Path | None = None
    """Directory with the files of the artifact, such as in the image of a version; the replica then
    fetches nothing."""

    artifact_sha256: str = ""
    """SHA-256 that the artifact must have; any if empty."""

    cache_dir: Path | None = None
    """Directory in which the replicas of this machine share the files of artifacts; none if not
    set."""

    cache_max_mib: int = Field(51200, ge=0)
    """Size in MiB beyond which the least recently used files of `cache-dir` are removed; those of
    live replicas stay."""

    blob_source: Path | None = None
    """Directory of this machine in which management stores the files of artifacts; the replica
    links to them instead of fetching them."""

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

    gpus: float = Field(0.0, ge=0)
    """GPUs that the replica has; below 1 the part of one to whose memory torch is limited."""

    memory_limit_mib: int = Field(0, ge=0)
    """Memory limit of the process; 0 for no limit."""

    fetch_timeout_s: float = Field(120.0, gt=0)
    """Longest time without progress during the fetch of the artifact."""

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

    check_health_s: float = Field(10.0, ge=0)
    """Time between two calls of the model's `check_health`, if it has one; 0 for none."""

    max_queued_batches: int = Field(64, ge=1)
    """Largest number of waiting batches of one stream on grpc.aio; a full stream is not read. The
    limit of the native transport is 1 MiB of batches."""

    @model_validator(mode="after")
    def _has_an_artifact(self) -> "ModelServerSettings":
        if self.artifact_dir is None and not (self.management_endpoint and self.token):
            raise ValueError("set artifact-dir, or both management-endpoint and token")
        return self

    def artifact_access(self) -> ArtifactAccess:
        """Return the access to management."""
        return ArtifactAccess(
            self.management_endpoint, self.replica_id, self.token.get_secret_value()
        )

    def download_options(self) -> DownloadOptions:
        """Return the sources and limits of the download of the artifact."""
        return DownloadOptions(
            self.fetch_timeout_s,
            self.artifact_sha256,
            self.cache_dir,
            self.cache_max_mib * 1024 * 1024,
            self.blob_source,
        )


def requirements_text() -> str:
    """Return the requirements for `skysail_model_server.installer`; may be empty."""
    return os.environ.get("SKYSAIL_REQUIREMENTS", "")

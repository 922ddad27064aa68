"""Settings of a model server: whoever starts its container sets them."""

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
    """Where management is reached, as host:port; the artifact comes from there, unless there is an
    `artifact-file`."""

    replica_id: str
    """Id of this replica, such as sum:3/0."""

    token: SecretStr = SecretStr("")
    """Proves to management which version this is a replica of."""

    artifact_file: Path | None = None
    """The artifact, where it is at hand, as in the image of a version: nothing is fetched then."""

    artifact_sha256: str = ""
    """SHA-256 that a fetched artifact must have; if empty, whichever management announces."""

    listen_address: str = "127.0.0.1:8005"
    """Address to listen on: host:port or unix:/path."""

    transport: TransportName = Field("auto", validation_alias=VARIABLE)
    """What carries gRPC: `native` (the package skysail-transport), `grpc` (grpc.aio), or `auto`,
    which is native where that is installed."""

    work_dir: Path = Path()
    """Directory for the user's modules; must be writable."""

    log_file: Path | None = None
    """File that standard output and error go to, rotated at `log-max-mib`; not touched if none."""

    log_max_mib: int = Field(10, ge=1)
    """Size at which the log file is rotated; one older file is kept."""

    memory_limit_mib: int = Field(0, ge=0)
    """Memory that the process may allocate; 0 for no limit."""

    fetch_timeout_s: float = Field(120.0, gt=0)
    """Longest time to fetch the artifact, retries included."""

    warm_up: bool = True
    """Have the function answer its example before the replica is ready, and measure its speed."""

    warm_up_s: float = Field(0.5, ge=0)
    """Time for calls that measure the speed; after the call with the example, which takes what it
    takes. 0 for the example alone."""

    warm_up_max_rows: int = Field(64, ge=1)
    """Most rows of a call that measures the speed."""

    stuck_after_s: float = Field(300.0, ge=0)
    """Time after which a call of the function is taken for stuck, if it is also 20 times what such
    calls take; the replica ends then, and is replaced. 0 for never."""

    max_queued_batches: int = Field(64, ge=1)
    """Batches of one stream that may wait, on grpc.aio; the stream is not read beyond. On the native
    transport it is 1 MiB of batches."""

    @model_validator(mode="after")
    def _has_an_artifact(self) -> "ModelServerSettings":
        if self.artifact_file is None and not (self.management_endpoint and self.token):
            raise ValueError("needs an artifact-file, or a management-endpoint and a token")
        return self


def requirements_text() -> str:
    """Return what `skysail_model_server.installer` is to install; empty for nothing."""
    return os.environ.get("SKYSAIL_REQUIREMENTS", "")

"""Where clients look for a cluster, and where a local one is kept."""

import json
import os
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

CLUSTER_FILE = "cluster.json"
"""File in the data directory that says how a running local cluster is reached."""

DEFAULT_ENDPOINT = "127.0.0.1:8003"


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "skysail"


class ClientSettings(BaseSettings):
    """Settings of the SDK and the command line."""

    model_config = SettingsConfigDict(
        env_prefix="SKYSAIL_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    endpoint: str = ""
    """Where management is reached, as host:port. If empty, the local cluster in the data
    directory; where none runs there, 127.0.0.1:8003."""

    data_dir: Path = _default_data_dir()
    """Data directory of the local cluster."""

    redis_url: str = ""
    """Server that speaks the Redis protocol, for `skysail up`; its own embedded one if empty."""

    def find_endpoint(self) -> str:
        """Return where management is reached."""
        if self.endpoint:
            return self.endpoint
        try:
            record = json.loads((self.data_dir / CLUSTER_FILE).read_text())
            return str(record["management"])
        except (OSError, ValueError, KeyError):
            return DEFAULT_ENDPOINT

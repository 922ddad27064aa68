"""The log of a replica: its configuration and its last event."""

import logging
import sys

from skysail_common.errors import SkysailError
from skysail_common.identifiers import ReplicaId
from skysail_common.process.logs import configure
from skysail_model_server.settings import ModelServerSettings

log = logging.getLogger(__name__)


def configure_log(settings: ModelServerSettings) -> None:
    """Configure the log; each JSON object has the name of the replica.

    Raises:
        InvalidInput: the replica id of the settings is invalid.
    """
    replica_id = ReplicaId.parse(settings.replica_id)
    version = replica_id.model_version
    fields = {"model": version.model_name, "version": version, "replica": replica_id}
    configure("model-server", settings.log_level, settings.log_format, fields=fields)


def write_error(error: SkysailError, log_format: str) -> None:
    """Write the error that ends the process: as text, or as an event of a JSON log."""
    if log_format == "json":
        log.error("replica gives up", extra={"text": error.message})
    else:
        sys.stderr.write(f"{error.message}\n")
    sys.stderr.flush()
    sys.stdout.flush()

"""The file in a data directory with the endpoints of its cluster, for clients of this machine."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from skysail.clusters.options import ClusterEndpoints
from skysail.settings import CLUSTER_FILE
from skysail_common.process.data_dir import cannot_use

_NOWHERE = ClusterEndpoints("", "", "", "")


def write_endpoints(data_dir: Path, endpoints: ClusterEndpoints, **facts: str | int) -> None:
    """Record the endpoints of the cluster of a data directory.

    Args:
        data_dir: The data directory.
        endpoints: Endpoints that this machine reaches.
        facts: `pid`, the process that supervises the services; `server_name`, the name in the
            certificates of frontends if it differs from the host of their endpoint.

    Raises:
        FailedPrecondition: the data directory cannot be written.
    """
    record = {name: value for name, value in {**facts, **vars(endpoints)}.items() if value}
    temporary = data_dir / f"{CLUSTER_FILE}.new"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(record))
        temporary.replace(data_dir / CLUSTER_FILE)
    except OSError as error:
        raise cannot_use(temporary, error) from error


def read_endpoints(data_dir: Path) -> ClusterEndpoints:
    """Return the recorded endpoints; all of them are empty if none are recorded."""
    try:
        record = json.loads((data_dir / CLUSTER_FILE).read_text())
        known = {field.name for field in fields(ClusterEndpoints)} & set(record)
        return ClusterEndpoints(**{**vars(_NOWHERE), **{name: str(record[name]) for name in known}})
    except (OSError, ValueError, TypeError):
        return _NOWHERE


def remove_endpoints(data_dir: Path) -> None:
    """Remove the record, if there is one."""
    (data_dir / CLUSTER_FILE).unlink(missing_ok=True)


@contextmanager
def restored_endpoints(data_dir: Path) -> Iterator[None]:
    """Restore the present record at the end of the context."""
    file = data_dir / CLUSTER_FILE
    before = file.read_text() if file.exists() else None
    try:
        yield
    finally:
        if before is None:
            file.unlink(missing_ok=True)
        else:
            file.write_text(before)

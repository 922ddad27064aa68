"""Latency profiles that frontends learn, stored for frontends that start later."""

import logging
from collections.abc import Iterable, Sequence

from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.messages import latencies_from_proto
from skysail_management.records import ProfileRecord, Records
from skysail_protos.v1 import routing_pb2

log = logging.getLogger(__name__)


class Profiles:
    """The latest profile of each deployed version."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def latencies(self, name: str) -> Sequence[tuple[int, float]]:
        """Return rows and seconds of a version by name; empty for an unknown one."""
        record = self._records.profiles.get(name)
        return record.latencies if record else ()

    async def take(self, reports: Iterable[routing_pb2.LatencyReport]) -> None:
        """Store reports; a failed write is dropped, because the next report is newer."""
        async with self._records.lock:
            changes = []
            for report in reports:
                name = str(ModelVersion(report.model, report.version))
                latencies = tuple(latencies_from_proto(report.points))
                if latencies and self._records.deployments.get(name) is not None:
                    record = ProfileRecord(latencies=latencies)
                    changes.append(self._records.profiles.put(name, record))
            if changes:
                try:
                    await self._records.commit(changes)
                except SkysailError as error:
                    log.info("latencies not stored", extra={"error": error.message})

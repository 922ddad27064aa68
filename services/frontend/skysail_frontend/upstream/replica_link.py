"""The link to one replica: sends batches, receives results and reconnects."""

import asyncio
import logging

from google.protobuf.message import DecodeError

from skysail_common.clock import NEVER
from skysail_common.errors import FailedPrecondition, SkysailError, Unavailable
from skysail_common.process.backoff import BackOff
from skysail_common.rpc.contract import Connector, Link
from skysail_common.rpc.link_identity import identity_metadata
from skysail_common.rpc.messages import latencies_from_proto
from skysail_frontend.core.batch import Batch
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.routes import ReplicaEndpoint
from skysail_frontend.core.version_dispatcher import VersionDispatcher
from skysail_frontend.upstream.batch_messages import decode_result, encode_batch
from skysail_protos.v1 import model_server_pb2 as pb

log = logging.getLogger(__name__)

_PATH = "/skysail.v1.ModelServer/PredictBatches"
_FIRST_RETRY_S = 0.02
_MAX_RETRY_S = 1.0


class ReplicaLink:
    """The link to one replica, which lives as long as the routes contain the replica."""

    def __init__(
        self,
        endpoint: ReplicaEndpoint,
        version: VersionDispatcher,
        dispatcher: Dispatcher,
        connector: Connector,
    ) -> None:
        """Does not connect before `run`."""
        self.container_id = endpoint.container_id
        self.endpoint = endpoint.endpoint
        self.free_at = 0.0
        self._version = version
        self._dispatcher = dispatcher
        self._connector = connector
        self._link: Link | None = None
        self._in_flight: dict[int, Batch] = {}
        self.num_in_flight = 0
        """Number of batches in flight."""
        self.is_ready = False
        """True while the replica accepts batches."""
        self._is_draining = False
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Keep the link open until it is drained; reconnect with backoff."""
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        is_refused = False
        while not self._is_draining:
            opened = NEVER
            try:
                await self._open()
                opened, is_refused = self._dispatcher.clock(), False
                await self._closed.wait()
            except Unavailable as error:
                self._log_failure(logging.DEBUG, "replica unreachable", error)
            except FailedPrecondition as error:
                # The address may belong to another replica since the routes were created.
                level = logging.DEBUG if is_refused else logging.WARNING
                self._log_failure(level, "endpoint belongs to another replica", error)
                is_refused = True
            except Exception as error:
                # The task must survive: without it, nothing would dial the endpoint again.
                log.error("replica link failed", exc_info=error)
            if self._dispatcher.clock() - opened > _MAX_RETRY_S:
                back_off.reset()
            elif not self._is_draining:
                # The pause also applies to a peer that accepts the link and closes it at once.
                await asyncio.sleep(back_off.next_s())

    async def _open(self) -> None:
        """Open the link and schedule the dispatch of queued queries.

        Raises:
            Unavailable: the endpoint is unreachable, or refuses batches at present.
            FailedPrecondition: the endpoint belongs to a replica of another version or content.
        """
        if self._link is not None:
            self._disconnect("internal error")
        self._closed.clear()
        served = self._version.served
        metadata = identity_metadata(served.name, served.artifact_sha256)
        link = await self._connector(self.endpoint, _PATH, self, metadata)
        if self._closed.is_set():
            raise Unavailable("the link closed while it opened")
        self._link = link
        self.is_ready = not self._is_draining
        log.info("replica connected", extra={"container": self.container_id})
        self._dispatcher.schedule_dispatch(self._version)
        self._close_if_drained()

    def _log_failure(self, level: int, event: str, error: SkysailError) -> None:
        log.log(level, event, extra={"container": self.container_id, "error": error.message})

    def _disconnect(self, reason: str) -> None:
        """Close the link and requeue its batches in flight."""
        if self._link is not None:
            self._link.close()
        self.link_closed(reason, has_died=True)

    def drain(self) -> None:
        """Refuse new batches, and close the link once all batches in flight are answered."""
        self._is_draining = True
        self.is_ready = False
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._is_draining and not self._in_flight and self._link is not None:
            self._link.close()
            self._link = None
            self._closed.set()

    def send(self, batch: Batch) -> None:
        """Send a batch in this turn of the event loop; a batch that cannot be sent is lost."""
        assert self._link is not None
        self._in_flight[batch.batch_id] = batch
        self.num_in_flight = len(self._in_flight)
        try:
            self._link.send(encode_batch(batch))
        except Exception:
            log.exception("batch not sent", extra={"container": self.container_id})
            self._in_flight.pop(batch.batch_id, None)
            self.num_in_flight = len(self._in_flight)
            # The failure counts as an attempt, so that a query that causes it is sent alone in the
            # end, and then fails.
            self._dispatcher.requeue_batches(self._version, [batch], has_died=True)

    def link_received(self, message: bytes) -> None:
        """Settle the queries of the batch that a result answers."""
        try:
            result = pb.BatchResult.FromString(message)
            if result.latencies:
                self._version.batcher.profile.seed(latencies_from_proto(result.latencies))
                return
            batch = self._in_flight.pop(result.id, None)
            self.num_in_flight = len(self._in_flight)
        except DecodeError:
            log.error("malformed result received", extra={"container": self.container_id})
            # The batch of the result is unknown. It would stay in flight forever.
            self._disconnect("malformed result")
            return
        if batch is None:
            log.error("result of an unknown batch received", extra={"container": self.container_id})
            return
        self.free_at = self._dispatcher.clock() + result.backlog_us * 1e-6
        answers = decode_result(self._version, batch, result)
        compute_s, wait_s = result.compute_us * 1e-6, result.wait_us * 1e-6
        self._dispatcher.complete_batch(self._version, batch, answers, compute_s, wait_s)
        self._close_if_drained()

    def link_closed(self, reason: str, has_died: bool) -> None:
        """Requeue the batches in flight."""
        log.log(
            logging.WARNING if has_died else logging.INFO,
            "replica disconnected",
            extra={
                "container": self.container_id,
                "reason": reason,
                "batches": len(self._in_flight),
            },
        )
        self._link = None
        self.is_ready = False
        self._closed.set()
        lost = list(self._in_flight.values())
        self._in_flight.clear()
        self.num_in_flight = 0
        self._dispatcher.requeue_batches(self._version, lost, has_died)

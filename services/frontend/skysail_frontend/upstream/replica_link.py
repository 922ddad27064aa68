"""The link to one replica: batches out, results in, and the connection kept."""

import asyncio
import logging
from collections.abc import Iterator, Sequence

from google.protobuf.message import DecodeError

from skysail_common.clock import NEVER
from skysail_common.errors import (
    FailedPrecondition,
    ModelFailed,
    SkysailError,
    Unavailable,
    error_of,
)
from skysail_common.process.backoff import BackOff
from skysail_common.rpc.contract import Connector, Link
from skysail_common.rpc.link_identity import identity_metadata
from skysail_common.rpc.messages import latencies_from_proto
from skysail_common.rpc.varints import varint
from skysail_common.tensors import Data, DataType
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.routes import ReplicaEndpoint
from skysail_frontend.core.version_dispatcher import (
    Batch,
    QueryError,
    QueryOutputs,
    VersionDispatcher,
)
from skysail_protos.v1 import model_server_pb2 as pb

log = logging.getLogger(__name__)

_PATH = "/skysail.v1.ModelServer/PredictBatches"
_FIRST_RETRY_S = 0.02
_MAX_RETRY_S = 1.0
_MAX_US = 2**32 - 1
_INPUTS = b"\x1a"
"""Number and wire type of `inputs` in a Batch."""


class Replica:
    """One replica of one version, for as long as the routes name it."""

    def __init__(
        self,
        endpoint: ReplicaEndpoint,
        version: VersionDispatcher,
        dispatcher: Dispatcher,
        connector: Connector,
    ) -> None:
        """Connects to nothing before `run`."""
        self.container_id = endpoint.container_id
        self.endpoint = endpoint.endpoint
        self.free_at = 0.0
        self._version = version
        self._dispatcher = dispatcher
        self._connector = connector
        self._link: Link | None = None
        self._in_flight: dict[int, Batch] = {}
        self.num_in_flight = 0
        """Batches that it has and has not answered."""
        self.is_ready = False
        """True while batches may be sent to it."""
        self._is_retired = False
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Keep the link open until the replica is retired and has answered what it has."""
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        is_refused = False
        while not self._is_retired:
            opened = NEVER
            try:
                await self._open()
                opened, is_refused = self._dispatcher.clock(), False
                await self._closed.wait()
            except Unavailable as error:
                self._log_failure(logging.DEBUG, "replica is not reached", error)
            except FailedPrecondition as error:
                # Its address may have been given to another since the routes were made.
                level = logging.DEBUG if is_refused else logging.WARNING
                self._log_failure(level, "endpoint is not this replica", error)
                is_refused = True
            except Exception as error:
                # Without its task the endpoint would stay known and never be dialled again.
                log.error("replica link failed", exc_info=error)
            if self._dispatcher.clock() - opened > _MAX_RETRY_S:
                back_off.reset()
            elif not self._is_retired:
                # A peer that accepts and closes at once is not dialled without a pause.
                await asyncio.sleep(back_off.next_s())

    async def _open(self) -> None:
        """Open the link and send what waits.

        Raises:
            Unavailable: the endpoint cannot be reached, or takes no batches now.
            FailedPrecondition: what listens there is a replica of another version or content.
        """
        if self._link is not None:
            self._drop("internal error")
        self._closed.clear()
        served = self._version.served
        metadata = identity_metadata(served.name, served.artifact_sha256)
        link = await self._connector(self.endpoint, _PATH, self, metadata)
        if self._closed.is_set():
            raise Unavailable("the link was lost as it opened")
        self._link = link
        self.is_ready = not self._is_retired
        log.info("replica is connected", extra={"container": self.container_id})
        self._dispatcher.mark(self._version)
        self._close_if_done()

    def _log_failure(self, level: int, event: str, error: SkysailError) -> None:
        log.log(level, event, extra={"container": self.container_id, "error": error.message})

    def _drop(self, reason: str) -> None:
        """Close the link and requeue the queries that are in flight on it."""
        if self._link is not None:
            self._link.close()
        self.link_closed(reason, has_died=True)

    def retire(self) -> None:
        """Send nothing any more; close once everything sent is answered."""
        self._is_retired = True
        self.is_ready = False
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_retired and not self._in_flight and self._link is not None:
            self._link.close()
            self._link = None
            self._closed.set()

    def send(self, batch: Batch) -> None:
        """Send a batch; leaves in this turn, or is lost if it cannot be sent."""
        assert self._link is not None
        self._in_flight[batch.batch_id] = batch
        self.num_in_flight = len(self._in_flight)
        try:
            self._link.send(_encode(batch))
        except Exception:
            log.exception("batch not sent", extra={"container": self.container_id})
            self._in_flight.pop(batch.batch_id, None)
            self.num_in_flight = len(self._in_flight)
            # As an attempt: a query that is to blame is sent alone in the end, and then given up.
            self._dispatcher.batches_lost(self._version, [batch], has_died=True)

    def link_received(self, message: bytes) -> None:
        """Settle the queries of the batch that this answers."""
        try:
            result = pb.BatchResult.FromString(message)
            if result.latencies:
                self._version.batcher.profile.seed(latencies_from_proto(result.latencies))
                return
            batch = self._in_flight.pop(result.id, None)
            self.num_in_flight = len(self._in_flight)
        except DecodeError:
            log.error("replica sent what is no result", extra={"container": self.container_id})
            # Which batch it was for cannot be told, and each would occupy the replica for ever.
            self._drop("it sent what is no result")
            return
        if batch is None:
            log.error("replica answered an unknown batch", extra={"container": self.container_id})
            return
        self.free_at = self._dispatcher.clock() + result.backlog_us * 1e-6
        answers = _decode(self._version, batch, result)
        compute_s, wait_s = result.compute_us * 1e-6, result.wait_us * 1e-6
        self._dispatcher.batch_answered(self._version, batch, answers, compute_s, wait_s)
        self._close_if_done()

    def link_closed(self, reason: str, has_died: bool) -> None:
        """Have the queries that were under way wait again."""
        log.log(
            logging.WARNING if has_died else logging.INFO,
            "replica is disconnected",
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
        self._dispatcher.batches_lost(self._version, lost, has_died)


def _encode(batch: Batch) -> bytes:
    """Return a serialized Batch, with a single copy of its data."""
    queries = batch.queries
    message = pb.Batch(id=batch.batch_id)
    # Fields may come in any order; the rest is serialized when it is complete.
    parts: list[Data] = [b""]
    if len(queries) == 1:
        message.rows.append(queries[0].rows)
        for data in queries[0].inputs:
            parts += (_INPUTS, varint(len(data)), data)
        message.variable_dims.extend(queries[0].variable_dims)
    else:
        message.rows.extend([query.rows for query in queries])
        for inputs in zip(*[query.inputs for query in queries], strict=True):
            parts += (_INPUTS, varint(sum(map(len, inputs))), *inputs)
        for query in queries:
            if query.variable_dims:
                message.variable_dims.extend(query.variable_dims)
    message.expected_us = min(_MAX_US, int(batch.expected_s * 1e6))
    parts[0] = message.SerializeToString()
    return b"".join(parts)


def _decode(
    version: VersionDispatcher, batch: Batch, result: pb.BatchResult
) -> Sequence[QueryOutputs | QueryError]:
    try:
        if version.served.signature.has_fixed_outputs and not result.errors:
            return _cut(version, batch, result)
        return _split(version, batch, result)
    except (IndexError, ValueError) as error:
        text = f"model '{version.served.name}' sent a result that does not fit its signature"
        log.error("result is not usable", extra={"error": str(error)})
        return [QueryError(ModelFailed(text))] * len(batch.queries)


def _cut(
    version: VersionDispatcher, batch: Batch, result: pb.BatchResult
) -> Sequence[QueryOutputs]:
    """Return the part of each query where its size follows from its rows.

    Raises:
        ValueError: the parts are more or less than the result holds.
    """
    specs, joined = version.served.signature.outputs, result.outputs
    row_bytes = [spec.row_bytes or 0 for spec in specs]
    expected = [batch.rows * size for size in row_bytes]
    if list(map(len, joined)) != expected or result.variable_dims or result.bytes_sizes:
        raise ValueError(f"{[len(part) for part in joined]} bytes, not {expected}")
    tails = [spec.shape[1:] for spec in specs]
    answers = []
    first = 0
    if len(specs) == 1:
        # The most frequent case, without an inner loop.
        (part,), (size,), (tail,) = joined, row_bytes, tails
        for query in batch.queries:
            last = first + query.rows
            answers.append(QueryOutputs([part[first * size : last * size]], [(query.rows, *tail)]))
            first = last
        return answers
    for query in batch.queries:
        last = first + query.rows
        data = [
            part[first * size : last * size] for part, size in zip(joined, row_bytes, strict=True)
        ]
        answers.append(QueryOutputs(data, [(query.rows, *tail) for tail in tails]))
        first = last
    return answers


def _split(
    version: VersionDispatcher, batch: Batch, result: pb.BatchResult
) -> Sequence[QueryOutputs | QueryError]:
    """Return the part of each query.

    Raises:
        IndexError, ValueError: the parts are more or less than the result holds.
    """
    specs = version.served.signature.outputs
    failed: dict[int, SkysailError] = {error.index: _query_error(error) for error in result.errors}
    joined = list(result.outputs)
    ends = [0] * len(specs)
    dims, sizes = iter(result.variable_dims), iter(result.bytes_sizes)
    if len(joined) != len(specs) and len(failed) < len(batch.queries):
        raise ValueError(f"{len(joined)} outputs, not {len(specs)}")
    answers: list[QueryOutputs | QueryError] = []
    for index, query in enumerate(batch.queries):
        if index in failed:
            answers.append(QueryError(failed[index]))
            continue
        data: list[bytes] = []
        shapes: list[tuple[int, ...]] = []
        for output, spec in enumerate(specs):
            shape = (query.rows, *spec.shape[1:])
            if spec.variable_axes:
                shape = tuple(
                    size if size != -1 else _next(dims, "sizes of dimensions") for size in shape
                )
            if spec.row_bytes is not None:
                size = query.rows * spec.row_bytes
            elif spec.datatype is DataType.BYTES:
                size = _next(sizes, "sizes of texts")
            else:
                size = spec.datatype.element_bytes
                for dimension in shape:
                    size *= dimension
            begin = ends[output]
            ends[output] = begin + size
            data.append(joined[output][begin : begin + size])
            shapes.append(shape)
        answers.append(QueryOutputs(data, shapes))
    if any(end != len(part) for end, part in zip(ends, joined, strict=bool(joined))):
        raise ValueError(f"{[len(part) for part in joined]} bytes, not {ends}")
    if next(dims, None) is not None or next(sizes, None) is not None:
        raise ValueError("too many sizes of dimensions or of texts")
    return answers


def _query_error(error: pb.BatchError) -> SkysailError:
    if error.code == ModelFailed.status:
        return ModelFailed(error.message)
    return error_of("", error.code, error.message)


def _next(values: Iterator[int], what: str) -> int:
    value = next(values, None)
    if value is None or value < 0:
        raise ValueError(f"too few {what}, or one below 0")
    return int(value)

"""A batch server whose main thread takes batches directly from the native transport.

engine's thread   connections, frames, health
main thread       take ──► run ──► flush
I/O thread        start, begin, drain

No thread hands over a batch and no task wakes for it. These steps are most of the cost of a batch of
a fast model with `AsyncioBatchServer`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from math import ceil
from time import perf_counter_ns

from skysail_transport import CANCELLED, HALF_CLOSED, MESSAGE, OPENED, Engine, Limits

from skysail_common.clock import NEVER
from skysail_common.errors import SkysailError
from skysail_common.identifiers import ReplicaId
from skysail_common.rpc import reflection
from skysail_common.rpc.channels import MAX_LINK_MESSAGE_BYTES
from skysail_common.rpc.native.outgoing import WELL, Outgoing, ending_of
from skysail_common.rpc.native.server import NativeServer
from skysail_common.rpc.statuses import as_skysail_error
from skysail_model_server.batch_server import (
    DESCRIBE_LOADED_MODEL,
    PREDICT_BATCHES,
    SERVICE,
    BatchServer,
    answer,
    introduction,
    parse_batch,
    with_backlog,
)
from skysail_model_server.execution import Execution
from skysail_protos.v1 import model_server_pb2 as pb

_STOP_GRACE_S = 1.0
_FOR_EVER_MS = -1
_MAX_UNTAKEN_BYTES = 4 * MAX_LINK_MESSAGE_BYTES


class _QueuedBatch:
    """A queued batch, or the end of its stream."""

    __slots__ = ("arrived_ns", "batch", "num_bytes", "stream_id")

    def __init__(self, stream_id: int, batch: pb.Batch | None, num_bytes: int = 0) -> None:
        self.stream_id = stream_id
        self.batch = batch
        self.num_bytes = num_bytes
        self.arrived_ns = perf_counter_ns()


class NativeBatchServer(BatchServer):
    """A batch server on an engine of the native transport."""

    def __init__(self, replica_id: ReplicaId) -> None:
        """Prepare the server; `start` opens its address."""
        limits = Limits(
            max_message_bytes=MAX_LINK_MESSAGE_BYTES,
            max_unsent_bytes=MAX_LINK_MESSAGE_BYTES,
            # Several frontends may each be sending their largest batch.
            max_untaken_bytes=_MAX_UNTAKEN_BYTES,
        )
        # The engine needs its own thread, because user code may hold the interpreter for seconds and
        # health checks must still be answered.
        self._engine = Engine(limits, has_own_thread=True)
        server = NativeServer(
            self._engine,
            lambda: self._engine.counters()["unsent_bytes"],
            lambda: None,
            [SERVICE],
            unary=[DESCRIBE_LOADED_MODEL],
            streams=[PREDICT_BATCHES, reflection.PATH],
        )
        super().__init__(replica_id, server)
        self._reflect = reflection.reflector([SERVICE])
        self._streams: dict[int, Callable[[int, bytes], None]] = {}
        """Receivers of the messages of each open stream."""
        self._waiting: deque[_QueuedBatch] = deque()
        self._backlog_us = 0
        self._outgoing = Outgoing(self._engine)
        self._drained: Future[None] = Future()

    def run(self, execution: Execution) -> None:
        """Answer batches on the main thread (see `BatchServer`)."""
        try:
            while not self._is_draining:
                self._take(0 if self._waiting else _milliseconds(execution.idle_s()))
                if self._waiting:
                    self._answer(self._waiting.popleft(), execution)
                self._outgoing.flush()
                execution.check_health()
            while self._waiting:
                self._answer(self._waiting.popleft(), execution)
                self._outgoing.flush()
            for stream_id in self._streams:
                self._outgoing.end(stream_id, WELL)
            self._outgoing.flush()
        finally:
            self._drained.set_result(None)

    async def drain(self) -> None:
        """Finish the batches in flight (see `BatchServer`)."""
        self._is_draining = True
        await self._server.set_serving(False)
        # The main thread may be waiting for a batch.
        self._engine.wake()
        await asyncio.wrap_future(self._drained)
        await self._server.stop(_STOP_GRACE_S)
        self._engine.close()

    def _take(self, timeout_ms: int) -> None:
        """Handle the events of the engine."""
        calls, events = self._engine.take(timeout_ms)
        for call_id, path, _, _, headers, _ in calls:
            self._called(call_id, path, headers.as_dict())
        for event in events:
            stream_id = event[1]
            if event[0] == MESSAGE:
                if (receive := self._streams.get(stream_id)) is not None:
                    self._guarded(stream_id, receive, event[2])
            elif event[0] == OPENED:
                self._opened(stream_id, event[2], event[4].as_dict())
            elif event[0] == HALF_CLOSED:
                # The end of the stream queues behind its batches.
                self._waiting.append(_QueuedBatch(stream_id, None))
            elif event[0] == CANCELLED:
                # `_answer` skips the queued batches of a removed stream.
                self._streams.pop(stream_id, None)

    def _called(self, call_id: int, path: str, metadata: Mapping[str, str | bytes]) -> None:
        """Answer the only unary call of the service."""
        try:
            self._outgoing.reply(call_id, self._describe(metadata))
        except Exception as error:
            self._outgoing.end(call_id, ending_of(as_skysail_error(error, path)))

    def _guarded(
        self, stream_id: int, receive: Callable[[int, bytes], None], message: bytes
    ) -> None:
        try:
            receive(stream_id, message)
        except Exception as error:
            self._outgoing.end(stream_id, ending_of(as_skysail_error(error, SERVICE)))
            del self._streams[stream_id]

    def _opened(self, stream_id: int, path: str, metadata: Mapping[str, str | bytes]) -> None:
        if path == reflection.PATH:
            self._streams[stream_id] = self._reflected
            return
        try:
            model = self._model_for(metadata)
        except SkysailError as error:
            self._outgoing.end(stream_id, ending_of(as_skysail_error(error, path)))
            return
        self._streams[stream_id] = self._received
        self._engine.accept(stream_id)
        if model.latencies:
            self._outgoing.send(stream_id, introduction(model))

    def _reflected(self, stream_id: int, message: bytes) -> None:
        self._outgoing.acknowledge(stream_id, len(message))
        self._outgoing.send(stream_id, self._reflect(message))

    def _received(self, stream_id: int, message: bytes) -> None:
        batch = parse_batch(message)
        self._backlog_us += batch.expected_us
        self._waiting.append(_QueuedBatch(stream_id, batch, len(message)))

    def _answer(self, waiting: _QueuedBatch, execution: Execution) -> None:
        stream_id, batch = waiting.stream_id, waiting.batch
        if batch is None:
            if self._streams.pop(stream_id, None) is not None:
                self._outgoing.end(stream_id, WELL)
            return
        self._backlog_us -= batch.expected_us
        if stream_id in self._streams:
            result = answer(execution, batch, waiting.arrived_ns)
            self._outgoing.send(stream_id, with_backlog(result, self._backlog_us))
            # A batch is acknowledged after its computation, which bounds the sending of frontends.
            self._outgoing.acknowledge(stream_id, waiting.num_bytes)


def _milliseconds(wait_s: float) -> int:
    """Return the timeout of the engine for a wait, rounded up so that the wait is over after it."""
    return _FOR_EVER_MS if wait_s == NEVER else ceil(wait_s * 1000)

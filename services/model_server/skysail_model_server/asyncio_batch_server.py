"""A batch server on an asyncio event loop, for any transport of the contract.

I/O thread     stream ──► job ─┐        ┌─► result ──► stream
main thread                    └─► run ─┘
"""

import asyncio
import queue
from dataclasses import dataclass
from time import perf_counter_ns

from skysail_common.clock import NEVER
from skysail_common.identifiers import ReplicaId
from skysail_common.rpc.contract import Call, Stream, Transport
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

_Results = asyncio.Queue["pb.BatchResult | None"]


@dataclass
class _BatchJob:
    """A batch for the main thread."""

    batch: pb.Batch
    arrived_ns: int
    results: _Results


class AsyncioBatchServer(BatchServer):
    """A batch server whose handlers queue batches for the main thread."""

    def __init__(
        self, transport: Transport, replica_id: ReplicaId, max_queued_batches: int
    ) -> None:
        """Prepare the server; `start` opens its address.

        Args:
            transport: Transport of the calls.
            replica_id: Id of this replica.
            max_queued_batches: Largest number of batches in flight of one stream; a full stream is
                not read.
        """
        super().__init__(
            replica_id,
            transport.server(
                [SERVICE],
                {DESCRIBE_LOADED_MODEL: self._described},
                {PREDICT_BATCHES: self._predict_batches},
            ),
        )
        self._transport = transport
        self._max_queued_batches = max_queued_batches
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_BatchJob | None] = queue.SimpleQueue()
        self._backlog_us = 0
        self._streams: dict[asyncio.Task[None], asyncio.Task[None]] = {}

    def run(self, execution: Execution) -> None:
        """Answer batches on the main thread (see `BatchServer`)."""
        while True:
            idle_s = execution.idle_s()
            try:
                job = self._jobs.get(timeout=None if idle_s == NEVER else idle_s)
            except queue.Empty:
                execution.check_health()
                continue
            if job is None:
                return
            result = answer(execution, job.batch, job.arrived_ns)
            self._loop.call_soon_threadsafe(self._finished, job, result)
            execution.check_health()

    async def drain(self) -> None:
        """Finish the batches in flight (see `BatchServer`)."""
        self._is_draining = True
        await self._server.set_serving(False)
        finishing = list(self._streams.values())
        for taking in self._streams:
            taking.cancel()
        if finishing:
            await asyncio.wait(finishing)
        await self._server.stop(_STOP_GRACE_S)
        self._transport.close()
        self._jobs.put(None)

    def _described(self, call: Call) -> None:
        call.reply(self._describe(call.metadata()))

    async def _predict_batches(self, stream: Stream) -> None:
        """Answer the batches of a frontend in order."""
        model = self._model_for(stream.metadata())
        await stream.accept()
        window = asyncio.Semaphore(self._max_queued_batches)
        results: _Results = asyncio.Queue()
        if model.latencies:
            await stream.send(introduction(model))
        taking = asyncio.create_task(self._take(stream, window, results), name="take batches")
        finishing = asyncio.create_task(self._finish(taking, window, results), name="finish")
        self._streams[taking] = finishing
        try:
            while (result := await results.get()) is not None:
                window.release()
                await stream.send(with_backlog(result, self._backlog_us))
            if not taking.cancelled() and (error := taking.exception()) is not None:
                raise error
        finally:
            taking.cancel()
            finishing.cancel()
            del self._streams[taking]

    async def _take(self, stream: Stream, window: asyncio.Semaphore, results: _Results) -> None:
        """Pass batches to the main thread until the frontend ends the stream."""
        async for message in stream:
            batch = parse_batch(message)
            await window.acquire()
            self._backlog_us += batch.expected_us
            self._jobs.put(_BatchJob(batch, perf_counter_ns(), results))

    def _finished(self, job: _BatchJob, result: pb.BatchResult) -> None:
        self._backlog_us -= job.batch.expected_us
        job.results.put_nowait(result)

    async def _finish(
        self, taking: "asyncio.Task[None]", window: asyncio.Semaphore, results: _Results
    ) -> None:
        """End the stream once its reader has ended and all its batches are answered."""
        await asyncio.wait({taking})
        for _ in range(self._max_queued_batches):
            # Each answer returns a permit.
            await window.acquire()
        results.put_nowait(None)

"""ModelServer: batches go to the main thread, results come back on the same stream."""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import grpc.aio

from skysail_common.errors import Unavailable
from skysail_common.identifiers import ReplicaId
from skysail_common.rpc.messages import latencies_to_proto, signature_to_proto
from skysail_model_server.model import Model
from skysail_protos.v1 import model_server_pb2 as pb
from skysail_protos.v1 import model_server_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_END = None


@dataclass
class Job:
    """A batch for the main thread."""

    batch: pb.Batch
    arrived_ns: int
    loop: asyncio.AbstractEventLoop
    results: "asyncio.Queue[pb.BatchResult | None]"
    on_finished: "Callable[[Job, pb.BatchResult], None]"

    def finish(self, result: pb.BatchResult) -> None:
        """Give the result back to the stream; called on the main thread."""
        waited_ns = perf_counter_ns() - self.arrived_ns - result.compute_us * 1000
        result.wait_us = max(0, min(waited_ns // 1000, 2**32 - 1))
        self.loop.call_soon_threadsafe(self.on_finished, self, result)


class ModelServerServicer(model_server_pb2_grpc.ModelServerServicer):
    """Serves frontends."""

    def __init__(
        self,
        replica_id: ReplicaId,
        jobs: "queue.SimpleQueue[Job | None]",
        max_queued_batches: int,
    ) -> None:
        """Takes no batches before `begin`.

        Args:
            replica_id: Who this is.
            jobs: Where batches go; the main thread takes them from there.
            max_queued_batches: Batches of one stream under way; it is not read beyond.
        """
        self._replica_id = replica_id
        self._jobs = jobs
        self._max_queued_batches = max_queued_batches
        self._model: Model | None = None
        self._is_draining = False
        self._backlog_us = 0
        self._streams: dict[asyncio.Task[None], asyncio.Task[None]] = {}

    def begin(self, model: Model) -> None:
        """Take batches from now on."""
        self._model = model

    async def drain(self) -> None:
        """Take no batch any more and return when every one that was taken is answered."""
        self._is_draining = True
        finishing = list(self._streams.values())
        for taking in self._streams:
            taking.cancel()
        if finishing:
            await asyncio.wait(finishing)

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        model_name, version = self._replica_id.model_version
        response = pb.DescribeResponse(
            replica_id=str(self._replica_id), model=model_name, version=version
        )
        if self._model is not None:
            response.signature.CopyFrom(signature_to_proto(self._model.signature))
            response.is_ready = not self._is_draining
        return response

    async def PredictBatches(
        self, request_iterator: AsyncIterator[pb.Batch], context: Context
    ) -> AsyncIterator[pb.BatchResult]:
        if self._model is None or self._is_draining:
            raise Unavailable(f"replica {self._replica_id} is not ready")
        # Tells the frontend that the stream is accepted, before there is a result.
        await context.send_initial_metadata(())
        window = asyncio.Semaphore(self._max_queued_batches)
        results: asyncio.Queue[pb.BatchResult | None] = asyncio.Queue()
        taking = asyncio.create_task(self._take(request_iterator, window, results))
        finishing = asyncio.create_task(self._finish(taking, window, results))
        self._streams[taking] = finishing
        try:
            if self._model.latencies:
                yield pb.BatchResult(latencies=latencies_to_proto(self._model.latencies))
            while (result := await results.get()) is not _END:
                window.release()
                yield result
        finally:
            taking.cancel()
            finishing.cancel()
            del self._streams[taking]

    async def _take(
        self,
        batches: AsyncIterator[pb.Batch],
        window: asyncio.Semaphore,
        results: "asyncio.Queue[pb.BatchResult | None]",
    ) -> None:
        """Pass batches on to the main thread until the frontend ends the stream."""
        loop = asyncio.get_running_loop()
        async for batch in batches:
            await window.acquire()
            self._backlog_us += batch.expected_us
            self._jobs.put(Job(batch, perf_counter_ns(), loop, results, self._finished))

    def _finished(self, job: Job, result: pb.BatchResult) -> None:
        """Pass a result on, with what the frontend should know of the others' batches."""
        self._backlog_us -= job.batch.expected_us
        result.backlog_us = min(self._backlog_us, 2**32 - 1)
        job.results.put_nowait(result)

    async def _finish(
        self,
        taking: "asyncio.Task[None]",
        window: asyncio.Semaphore,
        results: "asyncio.Queue[pb.BatchResult | None]",
    ) -> None:
        """End the stream once nothing more is taken and all that was taken is answered."""
        await asyncio.wait({taking})
        for _ in range(self._max_queued_batches):
            # A permit comes back with each answer.
            await window.acquire()
        results.put_nowait(_END)

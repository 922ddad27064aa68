"""A stream of queries to the query service, for the tests of its door."""

import asyncio
from collections.abc import AsyncIterator

from skysail_common.clock import NEVER
from skysail_frontend.ingress.grpc_query import SERVICE, GrpcQuery, QueryIds
from skysail_frontend.ingress.stream_session import Streams
from skysail_protos.v1 import query_pb2 as pb
from skysail_testing.clock import FakeClock
from unit.frontend.parts import Frontend, TurningLoop, served, turns


class FakeStream:
    """A stream whose client is the test."""

    method = f"/{SERVICE}/PredictStream"

    def __init__(self, deadline: float = NEVER) -> None:
        self.deadline = deadline
        self.arrival = FakeClock.BEGIN
        self.answers: list[pb.PredictStreamResponse] = []
        self.num_read = 0
        self.may_send = asyncio.Event()
        self.may_send.set()
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue()

    def metadata(self) -> dict[str, str | bytes]:
        return {}

    def ask(self, *requests: pb.PredictRequest | bytes) -> None:
        for request in requests:
            is_bytes = isinstance(request, bytes)
            self._incoming.put_nowait(request if is_bytes else request.SerializeToString())

    def end(self) -> None:
        self._incoming.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._incoming.get()) is not None:
            self.num_read += 1
            yield message

    async def send(self, message: bytes) -> None:
        await self.may_send.wait()
        self.answers.append(pb.PredictStreamResponse.FromString(message))

    @property
    def ids(self) -> list[str]:
        return [answer.query_id for answer in self.answers]


class Streaming:
    """A frontend with one stream."""

    def __init__(
        self, max_stream_queries: int = 10, max_age_s: float = 0.0, **options: object
    ) -> None:
        options.setdefault("loop", TurningLoop)
        self.frontend = Frontend(served(max_batch_size=1, num_replicas=4), **options)
        for _ in range(3):
            self.frontend.add_replica(function=options.get("function"))
        self.stream = FakeStream()
        self.streams = Streams(self.frontend.dispatcher, max_stream_queries, max_age_s)
        door = GrpcQuery(self.frontend.dispatcher, QueryIds(), self.streams)
        self.serving = asyncio.ensure_future(door.streams[self.stream.method](self.stream))

    async def ask(self, *requests: pb.PredictRequest | bytes) -> None:
        self.stream.ask(*requests)
        await turns()

    def answer(self, query_id: str) -> None:
        for replica in self.frontend.replicas:
            for batch in replica.in_flight:
                if batch.queries[0].query_id == query_id:
                    replica.answer(batch)
                    return
        raise AssertionError(f"{query_id} is not in flight")

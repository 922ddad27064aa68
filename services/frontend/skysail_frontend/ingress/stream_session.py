"""Streams of queries with bounded memory; answers leave as soon as they are ready."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable

from skysail_common.clock import Clock
from skysail_common.errors import Unavailable
from skysail_common.rpc.contract import Stream
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.query import Query

log = logging.getLogger(__name__)

_MAX_BYTES = 64 * 1024 * 1024
"""Largest size of the queries and answers of one stream; a full stream is not read."""
_LONGEST_TURN_S = 0.002
"""Longest time for the queries of one stream before other work gets the loop."""


class StreamSession:
    """One stream with its unanswered queries and its unsent answers."""

    def __init__(self, stream: Stream, max_queries: int, clock: Clock) -> None:
        self.deadline = stream.deadline
        self.arrival = 0.0
        """Arrival of the present query."""
        self.unanswered: dict[str, Query] = {}
        """Queries in flight, by a name that is unique on the stream."""
        self._stream = stream
        self._clock = clock
        self._had_room_at = 0.0
        self._max_queries = max_queries
        self._num_open = 0
        self._size_bytes = 0
        self._sizes: dict[str, int] = {}
        self._answers: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_ended = False

    async def read(self, ask: Callable[["StreamSession", bytes], None]) -> None:
        """Read and submit queries while the stream has room for their answers."""
        turn_s = 0.0
        async for message in self._stream:
            begin = self._clock()
            self._size_bytes += len(message)
            self.arrival = max(self._stream.arrival, self._had_room_at)
            ask(self, message)
            # The query counts after `ask`, because a query that raises there has no answer.
            self._num_open += 1
            # From here on `add` and `answer` count the size of the query and of its answer.
            self._size_bytes -= len(message)
            turn_s += self._clock() - begin
            if turn_s >= _LONGEST_TURN_S:
                turn_s = 0.0
                await asyncio.sleep(0)
            while self._num_open >= self._max_queries or self._size_bytes >= _MAX_BYTES:
                self._has_room.clear()
                await self._has_room.wait()
                # The client sent more than the stream may hold, so the wait does not count.
                self._had_room_at = self._clock()

    def add(self, name: str, query: Query) -> None:
        """Add a query in flight."""
        self.unanswered[name] = query
        self._size_bytes += query.input_bytes

    def answer(self, name: str, message: bytes) -> None:
        """Queue the answer to a query, or to an invalid message."""
        query = self.unanswered.pop(name, None)
        if query is not None:
            self._size_bytes -= query.input_bytes
        self._size_bytes += len(message)
        self._answers.append(message)
        self._wake.set()

    def end(self) -> None:
        """Let `send_answers` return after the last answer."""
        self._is_ended = True
        self._wake.set()

    async def send_answers(self) -> None:
        """Send answers until the stream has ended and all queries are answered."""
        while not (self._is_ended and self._num_open == 0):
            await self._wake.wait()
            self._wake.clear()
            while self._answers:
                message = self._answers.popleft()
                await self._stream.send(message)
                self._num_open -= 1
                self._size_bytes -= len(message)
                self._has_room.set()


class Streams:
    """All streams of a frontend."""

    def __init__(self, dispatcher: Dispatcher, max_queries: int, max_age_s: float = 0.0) -> None:
        """Create an empty set of streams.

        Args:
            dispatcher: Dispatcher of queries, which cancels the queries of a lost stream.
            max_queries: Largest number of unanswered queries of one stream; a full stream is not
                read.
            max_age_s: Age of a connection at which its client must reconnect; 0 for no limit.
        """
        self._dispatcher = dispatcher
        self._max_queries = max_queries
        self._max_age_s = max_age_s
        self._readers: set[asyncio.Task[None]] = set()
        self._is_draining = False

    def drain(self) -> None:
        """Stop reading; each stream ends after the answers to its queries."""
        self._is_draining = True
        for reader in self._readers:
            reader.cancel()

    async def serve(
        self,
        stream: Stream,
        ask: Callable[[StreamSession, bytes], None],
        *,
        can_age: bool = False,
    ) -> None:
        """Serve a stream to its end.

        Args:
            stream: The stream.
            ask: Function that submits the query of a message.
            can_age: True if its clients open another stream after its end.

        Raises:
            Unavailable: the frontend drains or the stream is old; all its queries were answered.
        """
        session = StreamSession(stream, self._max_queries, self._dispatcher.clock)
        reading = asyncio.create_task(session.read(ask), name="stream queries")
        sending = asyncio.create_task(session.send_answers(), name="stream answers")
        self._readers.add(reading)
        try:
            if self._is_draining:
                reading.cancel()
            done, _ = await asyncio.wait(
                {reading, sending},
                timeout=self._age_s() if can_age else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if is_old := not done:
                reading.cancel()
                await asyncio.wait({reading})
            if reading.done():
                session.end()
                await asyncio.wait({sending})
                if not reading.cancelled() and (error := reading.exception()) is not None:
                    raise error
        finally:
            self._readers.discard(reading)
            for query in session.unanswered.values():
                self._dispatcher.cancel(query)
            reading.cancel()
            sending.cancel()
            _, sent = await asyncio.gather(reading, sending, return_exceptions=True)
            if isinstance(sent, Exception):
                # A send fails after a disconnect of the client, which is not a fault of Skysail.
                log.info("answers of a stream lost", extra={"error": str(sent)})
        if self._is_draining:
            raise Unavailable("the frontend is draining; reconnect")
        if is_old:
            raise Unavailable("the stream has reached its maximum age; reconnect")

    def _age_s(self) -> float | None:
        # The stream ends after its connection has announced its end, so that the next stream opens
        # another connection. The jitter keeps clients from reconnecting together.
        return self._max_age_s * random.uniform(1.15, 1.3) if self._max_age_s else None

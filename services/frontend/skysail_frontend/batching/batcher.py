"""Forms batches from a queue: eagerly, whatever waits when a replica is free."""

from skysail_frontend.batching.deadline_queue import DeadlineQueue
from skysail_frontend.query import Query

LAST_ATTEMPT = 2
"""A query that lost its replica so many times is sent alone: it may be what ends replicas."""


MAX_BATCH_BYTES = 64 * 1024 * 1024
"""Input data of one batch; a query that is larger travels alone."""


class Batcher:
    """Decides which queries the next batch holds."""

    def __init__(self, queue: DeadlineQueue, max_batch_size: int) -> None:
        self._queue = queue
        self.max_batch_size = max_batch_size

    def next_batch(self) -> list[Query]:
        """Return the queries of the next batch, in the order of their deadlines.

        Returns:
            At most `max_batch_size` rows and `MAX_BATCH_BYTES`; empty where no query waits. A
            query is never split.
        """
        queue = self._queue
        batch: list[Query] = []
        rows = size = 0
        while (head := queue.peek()) is not None:
            if batch and (
                rows + head.rows > self.max_batch_size
                or size + head.input_bytes > MAX_BATCH_BYTES
                or head.attempts >= LAST_ATTEMPT
            ):
                break
            queue.pop()
            batch.append(head)
            rows += head.rows
            size += head.input_bytes
            if head.attempts >= LAST_ATTEMPT:
                break
        return batch

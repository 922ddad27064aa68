"""The contract of the ways to answer a batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import FrameType
from typing import Protocol

from skysail_common.tensors import Array


class QueryInputs(Protocol):
    """The inputs of the queries of a batch."""

    @property
    def rows(self) -> Sequence[int]:
        """Rows of each query."""
        ...

    def uniform_ranges(self) -> Sequence[tuple[int, int]]:
        """Return the ranges of consecutive queries that one call can answer together.

        Queries outside of all ranges are refused already.
        """
        ...

    def select(self, first: int, last: int) -> list[object]:
        """Return copies of the inputs of the queries from `first` to before `last`."""
        ...

    def select_row(self, query: int, row: int) -> list[object]:
        """Return copies of the inputs of one row of a query, without the batch axis."""
        ...

    def params(self, query: int) -> str:
        """Return the parameters of a query as a JSON object; empty for none."""
        ...


class Answers(Protocol):
    """Receiver of the answers to the queries of a batch; not safe for threads but `call_began`."""

    def call_began(self) -> None:
        """Note that a call of the function begins or has ended, so that nothing is stuck."""
        ...

    def add(self, rows: Sequence[int], outputs: Sequence[Array]) -> None:
        """Add the outputs of the next queries, in their order; all or none.

        Args:
            rows: Rows of each query.
            outputs: Joined outputs of these queries.

        Raises:
            Exception: an output cannot be encoded.
        """
        ...

    def fail(self, query: int, error: BaseException) -> None:
        """Answer a query with an error; may raise it in turn."""
        ...


class Calls(ABC):
    """A way to answer the queries of a batch by calls of the user's function."""

    @abstractmethod
    def answer(self, inputs: QueryInputs, answers: Answers) -> None:
        """Answer each query of the batch that is not refused: add its outputs, or fail it.

        Called by:
            The main thread, one batch at a time.
        """

    def waiting_frames(self) -> list[FrameType]:
        """Return the frames of a call that no thread runs because it waits, innermost first."""
        return []

    def close(self) -> None:  # noqa: B027 - some have no threads.
        """End the threads of the calls; called once, after the last batch."""

"""A unary call without a transport, for unit tests of servicers and gateways."""

from collections.abc import Callable, Mapping

from skysail_common.clock import NEVER
from skysail_common.errors import SkysailError
from skysail_common.rpc.contract import Metadata
from skysail_testing.clock import FakeClock


class FakeCall:
    """A unary call that remembers its answer."""

    def __init__(
        self,
        method: str,
        message: bytes,
        deadline: float = NEVER,
        arrival: float = FakeClock.BEGIN,
    ) -> None:
        self.method = method
        self.message = message
        self.deadline = deadline
        self.arrival = arrival
        self.answer: bytes | None = None
        self.error: SkysailError | None = None
        self._cancel: Callable[[], None] | None = None

    def metadata(self) -> Mapping[str, str | bytes]:
        return {}

    def reply(self, message: bytes, trailers: Metadata = ()) -> None:
        if not self.is_answered:
            self.answer = message

    def fail(self, error: SkysailError, trailers: Metadata = ()) -> None:
        if not self.is_answered:
            self.error = error

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._cancel = callback

    @property
    def is_answered(self) -> bool:
        return self.answer is not None or self.error is not None

    def cancel(self) -> None:
        assert self._cancel is not None
        self._cancel()

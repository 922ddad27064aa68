"""A buffer of outgoing messages, which an engine of the native transport sends in one call."""

import logging
from typing import Any

from skysail_transport import Engine

from skysail_common.errors import Backlog, Overloaded, SkysailError, Status
from skysail_common.rpc.contract import Metadata
from skysail_common.rpc.statuses import text_of, trailers_of

log = logging.getLogger(__name__)

Ending = tuple[int, str, Metadata, bytes | None]
"""Status, text, trailers and last message of a call or stream, in the form of the engine."""

_TRY_AGAIN_S = 0.1

WELL: Ending = (0, "", (), None)


def ending_of(error: SkysailError, trailers: Metadata = ()) -> Ending:
    """Return the ending of a call that failed with an error."""
    return int(error.status), text_of(error), (*trailers_of(error), *trailers), None


def _turned_away() -> Ending:
    """Return the ending of a refused call, built once so that refusals are cheap."""
    error = Overloaded("the server gets more calls than it can handle; retry later")
    error.backlog = Backlog("ingress", 0, _TRY_AGAIN_S)
    return ending_of(error)


TURNED_AWAY = _turned_away()
"""Ending of a call that this process cannot handle in time."""


class Outgoing:
    """Messages and endings, collected until `flush`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._replies: list[tuple[Any, ...]] = []
        self._messages: list[tuple[int, bytes]] = []
        self._acknowledged: list[tuple[int, int]] = []

    def reply(self, call_id: int, message: bytes) -> None:
        """Answer a call with OK."""
        self._replies.append((call_id, message))

    def end(self, call_id: int, ending: Ending) -> None:
        """End a call or a stream with a status."""
        self._replies.append((call_id, *ending))

    def send(self, stream_id: int, message: bytes) -> None:
        """Send a message on a stream of either side."""
        self._messages.append((stream_id, message))

    def acknowledge(self, stream_id: int, num_bytes: int) -> None:
        """Extend the flow-control window of a stream by a number of bytes."""
        self._acknowledged.append((stream_id, num_bytes))

    def flush(self) -> None:
        """Pass everything to the engine; an answer that cannot be sent fails only its own call.

        Raises:
            OSError: the engine has failed.
        """
        replies, self._replies = self._replies, []
        messages, self._messages = self._messages, []
        acknowledged, self._acknowledged = self._acknowledged, []
        if not (replies or messages or acknowledged):
            return
        try:
            self._engine.flush(replies, messages, acknowledged)
        except (TypeError, ValueError):
            # The engine has sent nothing, so that each item can be sent alone.
            log.exception("unhandled exception while sending an answer")
            self._engine.flush([], messages, acknowledged)
            for reply in replies:
                try:
                    self._engine.flush([reply])
                except (TypeError, ValueError):
                    internal = (int(Status.INTERNAL), "internal error", None, None)
                    self._engine.flush([(reply[0], *internal)])

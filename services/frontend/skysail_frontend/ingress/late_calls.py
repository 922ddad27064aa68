"""Handlers of late calls: they answer with default outputs, and count the other calls."""

from collections.abc import Callable

from skysail_common.errors import Overloaded, SkysailError
from skysail_common.rpc.contract import Call, LateHandler
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.query import Outcome, Query
from skysail_frontend.core.routes import RouteTable
from skysail_frontend.ingress.targets import Target

_MAX_FIELDS = 8
_MAX_SMALL = 0x80
"""Lengths below this take one byte."""
_LENGTH_DELIMITED = 2
_NO_TIME = "the frontend gets more queries than it can handle"

Find = Callable[[RouteTable, str, str], Target]
"""A function that finds the target of a name and a version."""


def late_handler(
    dispatcher: Dispatcher, tag: int, find: Find, query_of: Callable[[Call], Query]
) -> LateHandler:
    """Return a handler that answers late calls by the default output of their application.

    The rows of a call count as arrived, although no replica computes them. A call without a default
    output is not parsed, and counts as one row.

    Args:
        dispatcher: Dispatcher of queries.
        tag: Number and wire type of the field that names the target, in one byte.
        find: Function that finds the target of a name.
        query_of: Function that makes the query of a call; the settled query answers the call.
    """

    def answer(call: Call) -> bool:
        try:
            target = find(dispatcher.table, _text_field(call.message, tag), "")
        except SkysailError:
            return False
        version = dispatcher.version(target.version.name) if target.version else None
        has_default = target.application is not None and target.application.has_default
        rows = 1
        if has_default:
            query = query_of(call)
            rows = query.rows
            error = Overloaded(_NO_TIME)
            prediction = query.fail(Outcome.DEFAULT_OVERLOADED, _NO_TIME, error, dispatcher.clock())
            dispatcher.statistics.count_settled(query, prediction)
        if version is not None:
            # Refused rows count as arrivals too.
            version.batcher.rate.observe(rows, call.arrival)
        return has_default

    return answer


def _text_field(message: bytes, tag: int) -> str:
    """Return a short field that only short fields precede; an empty text without such a field."""
    position = 0
    for _ in range(_MAX_FIELDS):
        if position + 1 >= len(message):
            break
        found, size = message[position], message[position + 1]
        if size >= _MAX_SMALL or found & 7 != _LENGTH_DELIMITED:
            break
        position += 2 + size
        if found == tag:
            return message[position - size : position].decode(errors="replace")
    return ""

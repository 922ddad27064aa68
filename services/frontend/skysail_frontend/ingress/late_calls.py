"""Calls for which this process has no time: a default output where there is one, else a count."""

from collections.abc import Callable

from skysail_common.errors import Overloaded, SkysailError
from skysail_common.rpc.contract import Call, LateHandler
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.query import Outcome, Query
from skysail_frontend.core.routes import RouteTable
from skysail_frontend.ingress.targets import Target

_MAX_FIELDS = 8
_MAX_SMALL = 0x80
"""Lengths below it take one byte."""
_LENGTH_DELIMITED = 2
_NO_TIME = "the frontend gets more queries than it can handle"

Find = Callable[[RouteTable, str, str], Target]
"""Finds what a name and a version address."""


def late_handler(
    dispatcher: Dispatcher, tag: int, find: Find, query_of: Callable[[Call], Query]
) -> LateHandler:
    """Return what answers late calls by the default output of their application, if it has one.

    The rows of a call count as arrived, although nobody computes them; where nobody looks at the
    call, it counts as one row.

    Args:
        dispatcher: Knows the applications.
        tag: Number and wire type of the field that names the target, in a byte.
        find: Finds the target of a name.
        query_of: Makes the query of a call, which answers the call when it is settled.
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
            # What is refused arrived all the same.
            version.batcher.rate.observe(rows, call.arrival)
        return has_default

    return answer


def _text_field(message: bytes, tag: int) -> str:
    """Return a short field that stands behind short ones only; nothing if there is none."""
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

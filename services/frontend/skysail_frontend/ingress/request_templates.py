"""Request templates: the repeating bytes of ModelInfer requests are parsed only once.

The key of a request is all its bytes except its id and its raw data. It is sliced out of the message
without parsing. A known key leads to a template: target, rows, sizes and the beginning of the answer.
An unusual request has no template and takes the full path, which also makes all error messages.
"""

from collections.abc import Sequence

from skysail_common.rpc.varints import SMALL_VARINTS, varint
from skysail_frontend.core.query import Prediction, Query, Settle
from skysail_frontend.core.routes import RouteTable
from skysail_frontend.ingress.infer_parameters import RequestOptions
from skysail_frontend.ingress.request_parser import MAX_STRUCTURE_BYTES
from skysail_frontend.ingress.targets import Target, WaitLimits
from skysail_protos.inference import grpc_service_pb2 as pb

_MAX_TEMPLATES = 1024
_MAX_HEAD_BYTES = 4096
"""Longest request, without its raw data, that has a template, because templates keep their keys."""
_MAX_RAW = 1024
_MAX_DATA_BYTES = MAX_STRUCTURE_BYTES + 1
"""More than the data of any template, so that data cut to this size match none."""
_MAX_SHIFT = 28
"""A length has at most five bytes of seven bits."""
_MAX_SMALL = 0x80
"""Lengths below this take one byte."""
_LENGTH_DELIMITED = 2
# Tags of fields in ModelInferRequest and ModelInferResponse: number and wire type in one byte.
_REQUEST_VERSION, _REQUEST_ID, _REQUEST_RAW = 0x12, 0x1A, 0x3A
_RESPONSE_ID, _RESPONSE_RAW = b"\x1a", b"\x32"

Key = tuple[bytes, bytes]
"""The bytes of a request before its id, and the bytes between id and raw data."""


class RequestParts:
    """The parts of a serialized ModelInferRequest."""

    __slots__ = ("id_end", "key", "query_id", "raw")

    def __init__(self, key: Key, query_id: bytes, id_end: int, raw: list[bytes]) -> None:
        self.key = key
        self.query_id = query_id
        self.id_end = id_end
        """Position after the id; 0 without one."""
        self.raw = raw


def split_request(message: bytes) -> RequestParts | None:
    """Split a serialized ModelInferRequest; return None if its layout is unusual."""
    position, end = 0, len(message)
    query_id = b""
    id_begin = id_end = 0
    raw_begin = -1
    raw: list[bytes] = []
    try:
        while position < end:
            tag = message[position]
            size = message[position + 1]
            begin = position + 2
            if size >= _MAX_SMALL:
                size &= 0x7F
                shift = 7
                while True:
                    more = message[begin]
                    begin += 1
                    size |= (more & 0x7F) << shift
                    if more < _MAX_SMALL:
                        break
                    shift += 7
                    if shift > _MAX_SHIFT:
                        return None
            after = begin + size
            if tag == _REQUEST_RAW:
                if raw_begin < 0:
                    raw_begin = position
                elif len(raw) >= _MAX_RAW:
                    return None
                raw.append(message[begin:after])
            elif raw_begin >= 0 or after > _MAX_HEAD_BYTES or tag & 0x87 != _LENGTH_DELIMITED:
                # A tag of 0x80 or more has a second byte.
                return None
            elif tag == _REQUEST_ID:
                query_id, id_begin, id_end = message[begin:after], position, after
            position = after
    except IndexError:
        return None
    if position != end or raw_begin < 0:
        return None
    return RequestParts((message[:id_begin], message[id_end:raw_begin]), query_id, id_end, raw)


class RequestTemplate:
    """The shared parts of all requests with one key, and of their answers."""

    __slots__ = (
        "_dims",
        "_head",
        "_order",
        "_params",
        "_priority",
        "_raw_bytes",
        "_rows",
        "_target",
        "_wait_limits",
    )

    def __init__(
        self,
        query: Query,
        target: Target,
        options: RequestOptions,
        wait_limits: WaitLimits,
        order: Sequence[int],
    ) -> None:
        """Create a template from a query that took the full path.

        Args:
            query: A query that was checked against the signature of its version.
            target: Target of the queries.
            options: Options of the queries.
            wait_limits: Limits of the waiting time of the queries.
            order: For each input of the signature, its index in the request.
        """
        self._target = target
        self._raw_bytes = [0] * len(order)
        for place, data in zip(order, query.inputs, strict=True):
            self._raw_bytes[place] = len(data)
        self._order = None if list(order) == sorted(order) else order
        self._rows = query.rows
        self._dims = query.variable_dims
        self._priority = options.priority
        self._params = options.params
        self._wait_limits = wait_limits
        self._head: bytes | None = None

    def query(
        self, raw: Sequence[bytes], query_id: bytes, arrival: float, deadline: float, settle: Settle
    ) -> Query | None:
        """Return the query of a request; None if the data have other sizes or the id is not UTF-8.

        Args:
            raw: The data, in the order of the request.
            query_id: The id, which is UTF-8 in a valid request.
            arrival: Instant at which the call was read.
            deadline: Deadline of the call.
            settle: Callback for the answer.
        """
        if list(map(len, raw)) != self._raw_bytes:
            return None
        try:
            text = query_id.decode()
        except UnicodeDecodeError:
            return None
        if self._order is not None:
            raw = [raw[place] for place in self._order]
        return Query(
            text,
            self._target.application,
            self._target.version,
            raw,
            self._rows,
            self._dims,
            arrival,
            self._wait_limits.deadline(arrival, deadline),
            settle,
            self._priority,
            self._params,
        )

    def answer(self, query: Query, query_id: bytes, prediction: Prediction) -> bytes:
        """Return the serialized answer to a query with an answer of its model."""
        assert query.version is not None
        head = self._head
        if head is None:
            head = _head_of(query, prediction)
            if query.version.signature.has_fixed_outputs:
                self._head = head
        # The order of fields is free, so that the constant fields are serialized once and come first.
        first, *others = prediction.outputs
        if not others:
            if not query_id:
                return head + first
            size = len(query_id)
            id_size = SMALL_VARINTS[size] if size < _MAX_SMALL else varint(size)
            return b"".join((head, first, _RESPONSE_ID, id_size, query_id))
        parts = [head, first]
        for data in others:
            parts += (_RESPONSE_RAW, varint(len(data)), data)
        if query_id:
            parts += (_RESPONSE_ID, varint(len(query_id)), query_id)
        return b"".join(parts)


def _head_of(query: Query, prediction: Prediction) -> bytes:
    """Return the answer up to the data of its first output."""
    assert query.version is not None
    model, version = query.version.name
    response = pb.ModelInferResponse(model_name=model, model_version=version)
    for spec, shape in zip(query.version.signature.outputs, prediction.shapes, strict=True):
        response.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=shape)
    size = len(prediction.outputs[0])
    return b"".join((response.SerializeToString(), _RESPONSE_RAW, varint(size)))


_FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
"""Fields of every answer on a stream, as part of a ModelInferResponse."""


def streamed(response: bytes) -> bytes:
    """Return a serialized ModelStreamInferResponse around a serialized ModelInferResponse."""
    return b"".join((b"\x12", varint(len(response) + len(_FINAL)), response, _FINAL))


class RequestTemplates:
    """The templates of the present route table; a new table clears them."""

    def __init__(self) -> None:
        self._table: RouteTable | None = None
        self._templates: dict[Key, RequestTemplate] = {}
        self._sizes: dict[bytes, int] = {}
        """By the bytes before the id, the last length of the bytes between id and data."""

    def find(
        self, table: RouteTable, message: bytes
    ) -> tuple[RequestTemplate, bytes, list[bytes]] | None:
        """Return the template of a request with one input, its id and its data, or None.

        A few slices follow the layout of the last request for the same model. Equal keys prove that
        the slices are right, because all bytes except id and data are equal.
        """
        if table is not self._table:
            self._table = table
            self._templates.clear()
            self._sizes.clear()
        try:
            position = 2 + message[1]
            if message[position] == _REQUEST_VERSION:
                position += 2 + message[position + 1]
            before = message[:position]
            query_id = b""
            if message[position] == _REQUEST_ID:
                begin = position + 2
                if message[begin - 1] >= _MAX_SMALL:
                    return None
                position = begin + message[begin - 1]
                query_id = message[begin:position]
        except IndexError:
            return None
        size = self._sizes.get(before)
        if size is None:
            return None
        data = position + size
        template = self._templates.get((before, message[position:data]))
        return (
            None
            if template is None
            else (template, query_id, [message[data : data + _MAX_DATA_BYTES]])
        )

    def find_by_key(self, key: Key) -> RequestTemplate | None:
        """Return the template for a key, or None."""
        return self._templates.get(key)

    def learn(self, message: bytes, parts: RequestParts, template: RequestTemplate) -> None:
        """Add a template; clear all first if there are too many, such as if each request has a key."""
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
            self._sizes.clear()
        self._templates[parts.key] = template
        before, _ = parts.key
        if len(parts.raw) == 1 and before:
            # The second key includes the tag and the length of the data.
            after = message[parts.id_end : len(message) - len(parts.raw[0])]
            self._sizes[before] = len(after)
            self._templates[before, after] = template

"""Limits for the fields of a request, checked before it is handled.

The limits keep long names out of errors, logs and records.
"""

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from skysail_common.artifacts import MAX_BLOBS
from skysail_common.errors import InvalidInput

_MAX_CHARACTERS = 1000
_MAX_ITEMS = 10_000
_LONGER = {
    # The operation checks a limit in bytes, with a better message.
    "default_output_json": 1_000_000,
    # Linux limits an environment variable to 128 KiB.
    "variables": 130_000,
}
_MORE_ITEMS = {"blobs": MAX_BLOBS}


def check_request(request: Message) -> None:
    """Check the length of every text and list of a request, but not of bytes.

    Raises:
        InvalidInput: a field is too long; the message names it.
    """
    for field, value in request.ListFields():
        _check(field.name, value)


def _check(name: str, value: object) -> None:
    if isinstance(value, str):
        limit = _LONGER.get(name, _MAX_CHARACTERS)
        if len(value) > limit:
            raise InvalidInput(
                f"cannot accept {name}: it has {len(value)} characters; at most {limit} are allowed"
            )
    elif isinstance(value, Message):
        check_request(value)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        items = list(value.items() if isinstance(value, Mapping) else value)
        limit = _MORE_ITEMS.get(name, _MAX_ITEMS)
        if len(items) > limit:
            raise InvalidInput(
                f"cannot accept {name}: it has {len(items)} items; at most {limit} are allowed"
            )
        for item in items:
            for part in item if isinstance(item, tuple) else (item,):
                _check(name, part)

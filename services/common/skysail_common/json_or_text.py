"""Elements that are texts or JSON values, each told from the other by itself.

A text is written as it is, unless it reads as JSON: then it is written as the JSON string that it
is. So whatever reads as JSON is a JSON value, and anything else is a text:

    cat → cat    "7" → "7" with its quotes    7 → 7    {"n": 7} → {"n": 7}

NaN and infinities are written as Python's `json` does, because JSON has none.
"""

import dataclasses
import datetime
import enum
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from skysail_common.errors import ModelFailed

_FIRST_OF_JSON = frozenset(' \t\n\r"{[-0123456789tfnNI')
_BEGIN_OF_JSON = re.compile(r'[ \t\n\r]*(?:["{\[]|-?[0-9]|true|false|null|NaN|-?Infinity)')


def elements_of(values: Sequence[Any]) -> list[str]:
    """Return the elements that texts and values are written as (see `element_of`)."""
    # Most texts need no more than a look at their first character.
    return [
        value if type(value) is str and value[:1] not in _FIRST_OF_JSON else element_of(value)
        for value in values
    ]


def element_of(value: Any) -> str:
    """Return the element that a text or a value is written as.

    Values of JSON, numpy scalars and arrays, tensors of frameworks, dataclasses, dates, times,
    UUIDs and members of enumerations have a form in JSON.

    Raises:
        ModelFailed: the value has none; the message names its type.
    """
    if isinstance(value, str):
        return _encode(value) if _may_be_json(value) else value
    try:
        try:
            return _encode(value)
        except TypeError:
            # Keys of a dictionary do not go through `_as_json`.
            return _encode(_with_json_keys(value))
    except (ValueError, RecursionError) as error:
        raise ModelFailed(
            f"cannot write an output as JSON: {error}; return simpler lists and dictionaries"
        ) from error


def value_of(element: str) -> Any:
    """Return the text or the value that an element is."""
    try:
        return json.loads(element)
    except (ValueError, RecursionError):
        return element


def _may_be_json(text: str) -> bool:
    if _BEGIN_OF_JSON.match(text) is None:
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):
        # Numbers and nesting beyond this interpreter's limits.
        return True
    return True


def _as_json(value: Any) -> Any:
    """Return what has a form in JSON in place of a value of another type."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "M":
        return list(value)
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        # That of pandas for a missing date is not equal to itself.
        return value.isoformat() if value == value else None
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist") and not isinstance(value, memoryview):
        plain = value.tolist()
        if type(plain) is not type(value):
            return plain
    if type(value).__name__ == "NAType":
        return None
    raise ModelFailed(
        f"cannot write an output as JSON: it holds a value of type {type(value).__name__}; "
        f"{_advice(value)}"
    )


def _advice(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return (
            "return a text, such as its base64, or deploy with example=, whose outputs may be bytes"
        )
    if isinstance(value, (Set, Iterator)):
        return "return a list of its elements"
    return "return texts, numbers, lists or dictionaries"


def _with_json_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {_json_key(key): _with_json_keys(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_json_keys(each) for each in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return _with_json_keys(_as_json(value))


def _json_key(key: Any) -> Any:
    if key is not None and not isinstance(key, (str, int, float)):
        key = _as_json(key)
    if isinstance(key, (list, dict)):
        raise ModelFailed(
            "cannot write an output as JSON: a key of a dictionary is no text, number or date; "
            "return texts as keys"
        )
    return key


# Texts as they are, so that half a surrogate pair is noticed where the text is encoded.
_encode = json.JSONEncoder(ensure_ascii=False, default=_as_json).encode

"""An encoding of elements that are JSON values or texts, without a type tag.

A text that a JSON parser accepts is encoded as a JSON string. Any other text stays unchanged. An
element that parses as JSON is therefore a JSON value, and any other element is a text:

    cat → cat    "7" → "7" with its quotes    7 → 7    {"n": 7} → {"n": 7}

NaN and infinities have the form of Python's `json` module, because JSON lacks them.
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
    """Return the elements for texts and values (see `element_of`)."""
    # The first character already excludes JSON for most texts.
    return [
        value if type(value) is str and value[:1] not in _FIRST_OF_JSON else element_of(value)
        for value in values
    ]


def element_of(value: Any) -> str:
    """Return the element for a text or a value.

    Values of JSON, numpy scalars and arrays, tensors of frameworks, dataclasses, dates, times,
    UUIDs and members of enumerations have a JSON form.

    Raises:
        ModelFailed: the value lacks a JSON form; the message names its type.
    """
    if isinstance(value, str):
        return _encode(value) if _may_be_json(value) else value
    try:
        try:
            return _encode(value)
        except TypeError:
            # The encoder does not call `_as_json` for keys of a dictionary.
            return _encode(_with_json_keys(value))
    except (ValueError, RecursionError) as error:
        raise ModelFailed(
            f"cannot write an output as JSON: {error}; return simpler lists and dictionaries"
        ) from error


def value_of(element: str) -> Any:
    """Return the text or the value of an element."""
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
        # The text is JSON whose numbers or nesting exceed the limits of this interpreter.
        return True
    return True


def _as_json(value: Any) -> Any:
    """Convert a value that JSON lacks to one that has a JSON form."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "M":
        return list(value)
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        # The missing date of pandas is not equal to itself.
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
            "cannot write an output as JSON: a dictionary has a key that is not a text, number or "
            "date; return texts as keys"
        )
    return key


# The encoder writes no ASCII escapes, so that encoding as UTF-8 detects half a surrogate pair.
_encode = json.JSONEncoder(ensure_ascii=False, default=_as_json).encode

"""Parameters of a query for the function of its model: a JSON object of a limited size.

They travel as canonical JSON text, so that equal parameters give equal texts.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from skysail_common.errors import InvalidInput

MAX_PARAMS_BYTES = 64 * 1024
"""Largest text of the parameters of a query."""

MAX_PARAMS = 256
"""Largest number of parameters of a query."""


def params_to_json(params: Mapping[str, Any], default: Callable[[Any], Any] | None = None) -> str:
    """Return parameters as canonical JSON; an empty text for none.

    Args:
        params: Values of JSON by name.
        default: Returns a JSON value for one of another type.

    Raises:
        InvalidInput: a name is not a text, a value is not JSON, or the parameters are too large.
    """
    if not params:
        return ""
    if len(params) > MAX_PARAMS:
        raise InvalidInput(
            f"cannot pass {len(params)} parameters: a query has at most {MAX_PARAMS}; put them into "
            "one object"
        )
    for name in params:
        if not isinstance(name, str):
            raise InvalidInput(f"cannot pass parameter {name!r}: its name is not a text")
    try:
        text = json.dumps(
            params, sort_keys=True, separators=(",", ":"), allow_nan=False, default=default
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"cannot pass the parameters: {error}; give numbers, texts, booleans, None, lists and "
            "dictionaries"
        ) from error
    return _checked(text)


def params_from_json(text: str) -> str:
    """Return the canonical form of parameters from a JSON text; an empty text for none.

    Raises:
        InvalidInput: the text is not a JSON object, or is too large.
    """
    try:
        params = json.loads(_checked(text)) if text else {}
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"cannot read the parameters: they are not JSON: {error}") from error
    if not isinstance(params, dict):
        raise InvalidInput("cannot read the parameters: they are not a JSON object")
    return params_to_json(params)


def _checked(text: str) -> str:
    if len(text) > MAX_PARAMS_BYTES:
        raise InvalidInput(
            f"cannot pass the parameters: they have {len(text)} bytes as JSON, at most "
            f"{MAX_PARAMS_BYTES}; send large values as inputs"
        )
    return text

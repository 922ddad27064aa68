"""Parameters of a request for the function of the model."""

from collections.abc import Mapping
from typing import Any

from skysail_common.errors import InvalidInput
from skysail_common.query_params import MAX_PARAMS_BYTES, params_to_json
from skysail_frontend.core.routes import ServedVersion
from skysail_frontend.ingress.json_values import parsed
from skysail_frontend.ingress.long_json import LongArray
from skysail_frontend.ingress.long_texts import LongText

_MAX_SHOWN = 60


def function_params(params: Mapping[str, Any]) -> str:
    """Return the parameters of a parsed request as canonical JSON; an empty text for none.

    Raises:
        InvalidInput: a value is not JSON, or the parameters are too large.
    """
    return params_to_json(params, _long_value)


def _long_value(value: Any) -> Any:
    """Return the value of a long part of a JSON text."""
    if not isinstance(value, (LongArray, LongText)):
        raise TypeError(f"a value has type {type(value).__name__}")
    text = value.text
    if len(text) > MAX_PARAMS_BYTES:
        raise ValueError(f"a value has {len(text)} bytes, at most {MAX_PARAMS_BYTES}")
    return parsed(text)


def check_params(version: ServedVersion, params: str) -> None:
    """Check that the function of a version takes parameters.

    Raises:
        InvalidInput: it takes none.
    """
    if version.takes_params:
        return
    shown = params if len(params) <= _MAX_SHOWN else f"{params[:_MAX_SHOWN]}…"
    raise InvalidInput(
        f"cannot pass parameters {shown} to '{version.name}': its function takes none; deploy one "
        "with a keyword-only argument params, such as def predict(x, *, params), or send none"
    )

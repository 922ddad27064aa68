"""Times as nanoseconds of 64 bits, the one unit of times in tensors."""

import contextlib
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from skysail_common.errors import InvalidInput

NANOSECONDS: "dict[str, np.dtype[np.generic]]" = {
    "M": np.dtype("<M8[ns]"),
    "m": np.dtype("<m8[ns]"),
}
"""Type of times by the kind of their numpy type: `M` for points in time, `m` for durations."""

MISSING_TIME = -(2**63)
"""A missing time as an integer, as in numpy."""

_ISO_8601 = re.compile(
    r"(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)(?:Z|([+-])(\d\d):?(\d\d))?"
)


def nanoseconds_of_text(name: str, text: str) -> int:
    """Return the nanoseconds since 1970 of a date or time in ISO 8601; UTC without an offset.

    Raises:
        InvalidInput: the text is no such time, or nanoseconds of 64 bits cannot express it.
    """
    found = _ISO_8601.fullmatch(text[:40])
    with contextlib.suppress(ValueError):
        if found is not None:
            time, sign, hours, minutes = found.groups(default="0")
            moment = np.array([np.datetime64(time)])
            offset = int(f"{sign}1") * (int(hours) * 60 + int(minutes)) if sign != "0" else 0
            whole = int(nanoseconds(name, moment).astype(np.int64)[0])
            return whole - offset * 60 * 10**9
    raise InvalidInput(
        f"input {name!r} takes a time in ISO 8601, such as 2031-05-17T12:30:00Z, or nanoseconds since "
        f"1970, got {text[:40]!r}"
    )


def nanoseconds_of_texts(name: str, texts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the times of texts, as `nanoseconds_of_text` does for one, in the shape of the texts."""
    times = [nanoseconds_of_text(name, text) for text in texts.flat]
    return np.array(times, np.int64).reshape(texts.shape)


def text_of_time(value: Any) -> str | int | None:
    """Return a point in time in ISO 8601, a duration in nanoseconds, and a missing time as None."""
    if np.isnat(value):
        return None
    if value.dtype.kind == "m":
        return int(value.astype(np.int64))
    whole, _, fraction = str(np.datetime_as_string(value)).partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def nanoseconds(name: str, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return times in nanoseconds, in one block of memory.

    Raises:
        InvalidInput: a time is beyond those of 64 bits, which are the years 1678 to 2261.
    """
    dtype = NANOSECONDS[array.dtype.kind]
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    with contextlib.suppress(OverflowError):
        converted = np.ascontiguousarray(array.astype(dtype))
        # numpy wraps around.
        if ((converted.astype(array.dtype) == array) | np.isnat(array)).all():
            return converted
    raise InvalidInput(
        f"tensor {name!r} has a time that nanoseconds of 64 bits cannot express; the years 1678 to "
        "2261 can"
    )

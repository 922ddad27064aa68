import numpy as np
import pytest

from skysail_common.errors import InvalidInput
from skysail_common.times import nanoseconds, nanoseconds_of_text, text_of_time

NOON = "2031-05-17T12:30:00"


@pytest.mark.parametrize(
    "text",
    [
        NOON,
        "2031-05-17 12:30",
        f"{NOON}Z",
        "2031-05-17T14:30:00+02:00",
        "2031-05-17T10:00:00.000000000-0230",
    ],
)
def test_times_in_iso_8601(text):
    assert nanoseconds_of_text("x", text) == int(np.datetime64(NOON, "ns").astype(np.int64))


def test_a_date_and_the_last_nanosecond():
    assert nanoseconds_of_text("x", "1970-01-02") == 86_400 * 10**9
    assert nanoseconds_of_text("x", "1970-01-01T00:00:00.000000001") == 1


@pytest.mark.parametrize(
    "text",
    ["", "now", "NaT", "2031-13-01", "2031-05-17T25:00", "9999-01-01", "1.5", "2031", "é" * 99],
)
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidInput, match=r"'x' (takes a time in ISO 8601|has a time)"):
        nanoseconds_of_text("x", text)


def test_times_as_texts():
    assert text_of_time(np.datetime64(NOON, "ns")) == NOON
    assert text_of_time(np.datetime64("2031-05-17T12:30:00.25", "ns")) == f"{NOON}.25"
    assert text_of_time(np.datetime64("NaT", "ns")) is None
    assert text_of_time(np.timedelta64(3, "ns")) == 3


def test_other_units_become_nanoseconds():
    assert nanoseconds("x", np.array([NOON, "NaT"], "M8[s]")).dtype == "M8[ns]"
    with pytest.raises(
        InvalidInput, match="tensor 'x' has a time that nanoseconds of 64 bits cannot"
    ):
        nanoseconds("x", np.array([2**40], "m8[D]"))

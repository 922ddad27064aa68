import numpy as np
import pytest

from skysail_common.errors import InvalidInput
from skysail_common.loaders.rows import answer_in_parts, rows_at_once


@pytest.mark.parametrize(("rows", "calls"), [(None, [5]), (2, [2, 2, 1]), (1, [1] * 5), (9, [5])])
def test_a_batch_is_answered_in_parts(rows: int | None, calls: list[int]):
    seen = []

    def double(inputs):
        seen.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2, "n": inputs["x"][:, 0]}

    x = np.arange(10.0).reshape(5, 2)
    outputs = answer_in_parts(double, {"x": x}, rows)
    np.testing.assert_array_equal(outputs["y"], x * 2)
    np.testing.assert_array_equal(outputs["n"], x[:, 0])
    assert seen == calls


def test_a_batch_axis_of_a_fixed_size_is_refused():
    assert (rows_at_once("x", None, ""), rows_at_once("x", 1, "")) == (None, 1)
    with pytest.raises(
        InvalidInput, match=r"'x' has a batch axis of the fixed size 8, .* export so"
    ):
        rows_at_once("x", 8, "export so")

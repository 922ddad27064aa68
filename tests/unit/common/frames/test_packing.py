"""Columns of one type travel together, and arrive as they were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.frames.packing import packed_arrays, packed_data, unpacked_arrays
from skysail_common.tensors import (
    Content,
    DataType,
    Signature,
    Tensor,
    TensorSpec,
    from_numpy,
    to_numpy,
)
from skysail_testing.examples import examples

OUTPUT = TensorSpec("y", DataType.FP64, (-1,))
SPECS = (
    TensorSpec("a", DataType.FP64, (-1,)),
    TensorSpec("city", DataType.BYTES, (-1,), Content.TEXT),
    TensorSpec("n", DataType.INT16, (-1,)),
    TensorSpec("b", DataType.FP64, (-1,)),
    TensorSpec("when", DataType.INT64, (-1,), Content.DATETIME),
    TensorSpec("city.is_null", DataType.BOOL, (-1,), Content.NULL_MASK),
    TensorSpec("flag", DataType.BOOL, (-1,)),
    TensorSpec("m", DataType.INT16, (-1,)),
)
FRAME = Signature(SPECS, (OUTPUT,), "pandas")


def test_only_columns_of_data_frames_travel_together():
    assert Signature(SPECS, (OUTPUT,)).packed_inputs == SPECS
    shapes = [(spec.datatype.name, spec.shape) for spec in FRAME.packed_inputs]
    assert shapes == [
        ("FP64", (-1, 2)),
        ("BYTES", (-1,)),
        ("INT16", (-1, 2)),
        ("INT64", (-1,)),
        ("BOOL", (-1,)),
        ("BOOL", (-1,)),
    ]


@pytest.mark.parametrize("num_rows", [1, 3])
@settings(max_examples=examples(20))
@given(st.data())
def test_there_and_back(num_rows, data):
    numbers = st.lists(st.integers(0, 99), min_size=num_rows, max_size=num_rows)
    arrays = [
        np.array(data.draw(numbers)).astype(object if spec.dtype.kind == "O" else spec.dtype)
        for spec in SPECS
    ]
    arrays[1][:] = [f"text {number}" for number in arrays[1]]
    named = {spec.name: array.tolist() for spec, array in zip(SPECS, arrays, strict=True)}
    columns = [from_numpy(spec.name, each).data for spec, each in zip(SPECS, arrays, strict=True)]
    packed = [
        to_numpy(
            Tensor(spec.name, spec.datatype, (num_rows, *spec.shape[1:]), bytes(each), spec.content)
        )
        for spec, each in zip(
            FRAME.packed_inputs, packed_data(FRAME, columns, num_rows), strict=True
        )
    ]
    for found in (packed, packed_arrays(FRAME, arrays)):
        unpacked = unpacked_arrays(FRAME, found)
        assert {name: array.tolist() for name, array in unpacked.items()} == named

"""Large arrays of a function travel beside its pickle, without a copy."""

import gc
import hashlib
import os
import pickle
import resource
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skysail.artifact.buffers import copy_small
from skysail.artifact.build import build_artifact
from skysail.artifact.pickling import pickle_function
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.python import PythonLoader

X = np.ones((1, 2))


def loaded(function: Any, directory: Path) -> Any:
    """Return the value of a function after a replica loaded its artifact."""
    artifact = build_artifact(function, input_type="doubles", check=False)
    for path, content in artifact.files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content if not isinstance(content, Path) else b"")
        (directory / path).chmod(0o444)
    return PythonLoader({}).load(ModelContext(directory=directory))([])


def test_a_large_array_is_a_view_of_the_users_memory():
    weights = np.arange(100_000.0)
    pickled = pickle_function(lambda x: weights)
    [buffer] = pickled.buffers
    assert np.shares_memory(np.frombuffer(buffer, np.float64), weights)
    assert len(pickled.content) < 5_000


def test_a_small_array_stays_in_the_pickle():
    weights = np.arange(8_191.0)
    pickled = pickle_function(lambda x: weights)
    assert pickled.buffers == ()
    np.testing.assert_array_equal(pickle.loads(pickled.content)(None), weights)


ARRAYS = {
    "floats": np.arange(100_000.0),
    "a matrix in Fortran's order": np.asfortranarray(np.arange(90_000.0).reshape(300, 300)),
    "every second element": np.arange(100_000)[::2],
    "texts": np.array(["ab", "c"] * 50_000),
    "times": np.arange(100_000).astype("datetime64[s]"),
    "records": np.zeros(10_000, dtype=[("a", np.int32), ("b", "U3")]),
    "objects": np.array([None, "x"] * 10_000, dtype=object),
    "a scalar array": np.array(1.5),
    "empty": np.zeros((0, 3)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_arrive_as_they_are(name: str, tmp_path: Path):
    array = ARRAYS[name]
    found = loaded(lambda x: array, tmp_path)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    if array.ndim == 2:
        assert found.flags.f_contiguous == array.flags.f_contiguous


def test_a_read_only_array_stays_read_only(tmp_path: Path):
    weights = np.arange(100_000.0)
    weights.flags.writeable = False
    assert not loaded(lambda x: weights, tmp_path).flags.writeable


def test_an_array_that_two_objects_hold_stays_shared(tmp_path: Path):
    weights = np.arange(100_000.0)
    holders = [{"a": weights}, (weights,)]
    first, second = loaded(lambda x: holders, tmp_path)
    assert first["a"] is second[0]


def test_the_model_may_write_to_its_weights_without_changing_the_file(tmp_path: Path):
    weights = np.zeros(100_000)
    found = loaded(lambda x: weights, tmp_path)
    found[:] = 7.0
    assert found.sum() == 700_000
    assert (tmp_path / "buffers/0.bin").read_bytes() == bytes(800_000)
    other = loaded(lambda x: weights, tmp_path / "other")
    assert other.sum() == 0


def test_many_arrays_need_few_descriptors(tmp_path: Path):
    # Equal sizes would hide a wrong order.
    arrays = [np.full(8_192 + index, index) for index in range(600)]
    before = len(os.listdir("/proc/self/fd"))
    found = loaded(lambda x: arrays, tmp_path)
    assert len(os.listdir("/proc/self/fd")) - before <= 512
    for expected, array in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(array, expected)
        array[0] = 7


def test_the_weights_outlive_everything_else(tmp_path: Path):
    weights = np.arange(100_000.0)
    found = loaded(lambda x: weights, tmp_path)
    gc.collect()
    assert found.sum() == weights.sum()


def test_equal_models_have_equal_artifacts():
    def artifact() -> str:
        weights, bias = np.full(100_000, 2.0), np.full(50_000, 1.0)
        return build_artifact(lambda x: x * weights[0] + bias[0], example=X).sha256

    assert artifact() == artifact()


def test_equal_arrays_are_one_blob():
    first, second = np.full(100_000, 2.0), np.full(100_000, 2.0)
    blobs = build_artifact(lambda x: x * first[0] * second[0], example=X).manifest.blobs
    hashes = [blob.sha256 for blob in blobs if blob.path.startswith("buffers/")]
    assert len(hashes) == 2
    assert len(set(hashes)) == 1


def test_a_gigabyte_is_pickled_at_once_and_without_a_copy():
    # The pages are never touched, so that they need no memory.
    weights = np.zeros(2**27)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    pickled = pickle_function(lambda x: weights)
    assert time.monotonic() - begin < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert sum(buffer.nbytes for buffer in pickled.buffers) == 2**30


def test_the_error_about_an_unpicklable_part_is_quick_beside_large_data():
    values: list[Any] = [*range(3_000_000), threading.Lock()]
    weights = np.zeros(2**27)
    begin = time.monotonic()
    with pytest.raises(InvalidInput, match=r"\(a lock\)"):
        pickle_function(lambda x: (weights, values))
    assert time.monotonic() - begin < 10


def counting(weights: np.ndarray) -> Any:
    """Return a function that changes its weights at each call."""

    def function(x: np.ndarray) -> np.ndarray:
        weights[0] += 1
        return x + weights[0]

    return function


def test_a_function_that_changes_its_array_travels_as_it_was_before_its_example(tmp_path: Path):
    weights = np.zeros(100_000)
    artifact = build_artifact(counting(weights), example=X)
    assert weights[0] > 0
    assert bytes(artifact.files["buffers/0.bin"]) == bytes(800_000)  # type: ignore[arg-type]


def test_a_change_of_a_very_large_array_shows_in_its_hash():
    weights = np.zeros(9 * 2**20)
    before = hashlib.sha256(weights).hexdigest()
    artifact = build_artifact(counting(weights), example=X)
    [blob] = [each for each in artifact.manifest.blobs if each.path == "buffers/0.bin"]
    assert weights[0] > 0
    assert blob.sha256 == before


def test_the_copies_of_arrays_are_bounded():
    arrays = [np.zeros(size * 2**17) for size in (100, 30, 30, 30)]
    copies = copy_small([memoryview(each).cast("B") for each in arrays])
    assert [isinstance(each, bytes) for each in copies] == [False, True, True, False]
    assert [len(each) for each in copies] == [each.nbytes for each in arrays]

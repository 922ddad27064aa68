import numpy as np
import pytest

from skysail_common.errors import ModelFailed
from skysail_common.functions import OUTPUT_NAME
from skysail_common.tensors import Array, DataType, Signature, TensorSpec
from skysail_model_server import warm_up as module
from skysail_model_server.model import Model
from skysail_model_server.warm_up import warm_up

EXAMPLE = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def model_of(function) -> Model:
    spec = TensorSpec("x", DataType.FP64, (-1, 2))
    output = TensorSpec(OUTPUT_NAME, DataType.FP64, (-1, 2))
    return Model(function, "array", Signature((spec,), (output,)))


def test_batches_double_and_repeat_the_rows_of_the_example():
    calls: list[Array] = []

    def keeps(x: Array) -> Array:
        calls.append(x.copy())
        x[:] = 0.0
        return x

    latencies = warm_up(model_of(keeps), [EXAMPLE])
    assert [rows for rows, _ in latencies] == [1, 2, 4, 8, 16, 32, 64]
    assert all(latency_s > 0 for _, latency_s in latencies)
    assert calls[0].tolist() == EXAMPLE.tolist()
    four = next(each for each in calls if len(each) == 4)
    assert four.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [1.0, 2.0]]


def test_a_slow_model_is_not_asked_for_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])

    def is_slow(x: Array) -> Array:
        now[0] += 0.1
        return x

    latencies = warm_up(model_of(is_slow), [EXAMPLE])
    assert [rows for rows, _ in latencies] == [1, 2]
    assert [latency_s for _, latency_s in latencies] == pytest.approx([0.1, 0.1])


def test_a_model_that_takes_no_large_batch_is_warmed_up_with_small_ones():
    def takes_four(x: Array) -> Array:
        if len(x) > 4:
            raise SystemExit("out of memory")
        return x

    assert [rows for rows, _ in warm_up(model_of(takes_four), [EXAMPLE])] == [1, 2, 4]


def test_a_model_that_fails_on_its_example_fails():
    with pytest.raises(ModelFailed):
        warm_up(model_of(lambda x: x[:1]), [EXAMPLE])


def test_a_model_that_fails_on_its_example_after_a_larger_batch_fails():
    seen = []

    def has_no_memory_left(x: Array) -> Array:
        seen.append(len(x))
        if max(seen) > 4:
            raise MemoryError
        return x

    with pytest.raises(MemoryError):
        warm_up(model_of(has_no_memory_left), [EXAMPLE])
    assert seen[-2:] == [8, 3]

import numpy as np
import pytest

from skysail_common.call_style import CallStyle
from skysail_common.errors import ModelFailed
from skysail_common.model_functions import OUTPUT_NAME
from skysail_common.tensors import Array, DataType, Signature, TensorSpec
from skysail_model_server import warm_up as module
from skysail_model_server.model import Model
from skysail_model_server.warm_up import DEFAULT_LIMITS, WarmUpLimits, warm_up

EXAMPLE = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def model_of(function) -> Model:
    spec = TensorSpec("x", DataType.FP64, (-1, 2))
    output = TensorSpec(OUTPUT_NAME, DataType.FP64, (-1, 2))
    return Model(function, CallStyle(), Signature((spec,), (output,)))


def measured(function, limits: WarmUpLimits = DEFAULT_LIMITS) -> Model:
    model = model_of(function)
    warm_up(model, [[EXAMPLE]], limits)
    return model


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """Replace the clock of the warm-up."""
    now = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def test_few_calls_of_few_sizes_repeat_the_rows_of_the_example():
    calls: list[Array] = []

    def keeps(x: Array) -> Array:
        calls.append(x.copy())
        x[:] = 0.0
        return x

    model = measured(keeps)
    assert [len(each) for each in calls] == [3, 1, 8, 64, 3]
    assert [rows for rows, _ in model.latencies] == [1, 3, 8, 64]
    assert all(latency_s > 0 for _, latency_s in model.latencies)
    assert calls[0].tolist() == calls[-1].tolist() == EXAMPLE.tolist()
    assert calls[2].tolist() == [*EXAMPLE.tolist(), *EXAMPLE.tolist(), *EXAMPLE[:2].tolist()]


@pytest.mark.parametrize("call_s", [16.0, 2.5, 0.51])
def test_a_slow_model_is_called_once(now, call_s):
    numbers: list[int] = []

    def is_slow(x: Array) -> Array:
        now[0] += call_s
        return x

    model = model_of(is_slow)
    warm_up(model, [[EXAMPLE]], WarmUpLimits(), numbers.append)
    assert numbers == [1]
    assert model.latencies == []
    assert model.longest_call_s == pytest.approx(call_s)


@pytest.mark.parametrize("row_s", [0.0001, 0.003, 0.007, 0.02, 0.1])
def test_measuring_calls_stay_within_the_budget(now, row_s):
    taken: list[float] = []

    def function(x: Array) -> Array:
        taken.append(len(x) * row_s)
        now[0] += taken[-1]
        return x

    model = measured(function)
    # The example at both ends takes what it takes.
    assert sum(taken[1:-1]) <= 0.5
    assert dict(model.latencies)[1] == pytest.approx(row_s)
    assert dict(model.latencies)[3] == pytest.approx(3 * row_s)


def test_a_slow_first_call_does_not_predict_later_calls(now):
    calls: list[int] = []

    def lazy(x: Array) -> Array:
        now[0] += 0.001 if calls else 0.4
        calls.append(len(x))
        return x

    model = measured(lazy)
    assert model.latencies == [(rows, pytest.approx(0.001)) for rows in (1, 3, 8, 64)]
    assert model.longest_call_s == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        (WarmUpLimits(budget_s=0.0), [3]),
        (WarmUpLimits(max_rows=1), [3, 1, 3]),
        (WarmUpLimits(max_rows=8), [3, 1, 8, 3]),
        (WarmUpLimits(max_rows=32), [3, 1, 8, 32, 3]),
        (WarmUpLimits(max_rows=65_536), [3, 1, 8, 64, 3]),
    ],
)
def test_the_limits_of_the_warm_up_apply(limits, sizes):
    calls: list[int] = []

    def function(x: Array) -> Array:
        calls.append(len(x))
        return x

    measured(function, limits)
    assert calls == sizes


def test_a_model_that_rejects_large_batches_is_warmed_up_with_small_ones():
    def takes_eight(x: Array) -> Array:
        if len(x) > 8:
            raise SystemExit("out of memory")
        return x

    assert [rows for rows, _ in measured(takes_eight).latencies] == [1, 3, 8]


def test_a_model_that_fails_on_its_example_fails():
    with pytest.raises(ModelFailed):
        measured(lambda x: x[:1])


@pytest.mark.parametrize("num_good", [2, 3, 4])
def test_a_model_that_fails_on_its_example_after_the_measurement_fails(num_good):
    seen: list[int] = []

    def has_no_memory_left(x: Array) -> Array:
        seen.append(len(x))
        if len(seen) > num_good:
            raise MemoryError
        return x

    with pytest.raises(MemoryError):
        measured(has_no_memory_left)
    assert seen[-1] == 3

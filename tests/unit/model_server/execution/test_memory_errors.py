import pytest

from skysail_common.call_style import CallStyle
from skysail_common.clock import NEVER
from skysail_common.errors import Status
from skysail_common.tensors import Signature
from skysail_model_server.call_watchdog import CallWatchdog
from skysail_model_server.execution import Execution
from skysail_model_server.model import Model
from skysail_testing.clock import FakeClock
from unit.model_server.execution.batches import OUT, POISON, X, answers, make_batch, query


def test_a_lack_of_memory_is_reported_after_three_batches_in_a_row():
    signature = Signature((X,), (OUT,))
    reports = []

    def function(x):
        if (x == POISON).any():
            raise MemoryError
        return x

    run_batch = Execution(
        Model(function, CallStyle(), signature),
        CallWatchdog(NEVER, FakeClock()),
        lambda: reports.append(True),
    ).run

    def ask(*values: float) -> None:
        run_batch(make_batch(signature, [[query(value)] for value in values]))

    for values in ([POISON], [POISON], [1], [POISON, POISON], [POISON, 1], [POISON], [POISON]):
        ask(*values)
    assert not reports
    ask(POISON)
    assert reports == [True]


@pytest.mark.parametrize("is_leak", [False, True])
def test_inputs_that_need_too_much_memory_do_not_end_a_replica_that_answers_its_example(is_leak):
    signature = Signature((X,), (OUT,))
    reports = []
    leaked = []

    def function(x):
        if (x == POISON).any():
            leaked.extend([x] * is_leak)
            raise MemoryError
        if leaked:
            raise MemoryError
        return x

    model = Model(function, CallStyle(), signature)
    model.example = [query(1)]
    run_batch = Execution(model, CallWatchdog(NEVER, FakeClock()), lambda: reports.append(True)).run
    for _ in range(3):
        assert run_batch(make_batch(signature, [[query(POISON)]])).errors
    assert reports == [True] * is_leak


@pytest.mark.parametrize("where", ["BatchInputs.__init__", "BatchOutputs.write_to"])
def test_a_lack_of_memory_outside_the_function_fails_the_batch_and_counts(monkeypatch, where):
    signature = Signature((X,), (OUT,))
    reports = []

    def lacks_memory(*args):
        raise MemoryError

    run_batch = Execution(
        Model(lambda x: x, CallStyle(), signature),
        CallWatchdog(NEVER, FakeClock()),
        lambda: reports.append(True),
    ).run
    monkeypatch.setattr(f"skysail_model_server.batches.{where}", lacks_memory)
    for _ in range(3):
        assert reports == []
        batch = make_batch(signature, [[query(1)], [query(2)]])
        result = run_batch(batch)
        first, second = answers(signature, batch, result)
        assert (first.code, second.code) == (Status.INTERNAL, Status.INTERNAL)
        assert first.message.startswith("MemoryError (in ")
        assert result.id == batch.id
    assert reports == [True]

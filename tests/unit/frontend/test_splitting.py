"""Queries with more rows than a batch may have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import DeadlineExceeded, ModelFailed, Overloaded
from skysail_common.serving_options import ServingOptions
from skysail_common.tensors import Content, DataType, TensorSpec, join_bytes_elements
from skysail_frontend.core.batch import QueryOutputs
from skysail_frontend.core.prediction_cache import PredictionCache
from skysail_frontend.core.query import Outcome, Query
from skysail_frontend.core.splitting import split_query
from skysail_testing.examples import examples
from unit.frontend.parts import (
    Frontend,
    application,
    doubled,
    echoed,
    failing,
    served,
    signature_of,
    texts,
)


def numbers(prediction) -> list[float]:
    return np.frombuffer(prediction.outputs[0]).tolist()


def test_a_large_query_is_split_and_answered_in_order():
    frontend = Frontend(served(max_batch_size=4))
    query = frontend.submit(rows=10)
    small = frontend.submit()
    frontend.loop.turn()
    while any(replica.in_flight for replica in frontend.replicas):
        # The newest batch is answered first, so that the parts return in another order.
        frontend.replica.answer(frontend.replica.in_flight[-1])
        frontend.loop.turn()
    rows = [sum(each.rows for each in batch.queries) for batch in frontend.replica.sent]
    assert sum(rows) == 11
    assert max(rows) <= 4
    answered = frontend.settled[query]
    assert numbers(answered) == [2.0 * each for each in range(30)]
    assert answered.shapes == [(10, 3)]
    assert answered.compute_s > 0
    assert frontend.settled[small].shapes == [(1, 3)]
    assert frontend.dispatcher.num_unsettled == 0


def test_one_failed_part_fails_the_query():
    frontend = Frontend(served(max_batch_size=4), function=failing(ModelFailed("no")))
    query = frontend.submit(rows=10)
    frontend.loop.turn()
    assert isinstance(frontend.settled[query].error, ModelFailed)
    assert frontend.dispatcher.num_unsettled == 0


def test_the_default_output_applies_to_the_whole_query():
    app = application("app", "m:1", default=[0.0])
    frontend = Frontend(served(max_batch_size=4))
    query = frontend.submit(rows=10, application=app)
    frontend.loop.turn()
    frontend.replica.answer()
    frontend.loop.advance(1.0)
    answered = frontend.settled[query]
    assert (answered.outcome, answered.error) == (Outcome.DEFAULT_DEADLINE, None)
    assert frontend.dispatcher.num_unsettled == 0
    (target,) = frontend.dispatcher.statistics.targets.values()
    assert target.outcomes == {"DEFAULT_DEADLINE": 1}


def test_each_part_has_the_deadline_of_the_query():
    frontend = Frontend(served(max_batch_size=4))
    query = frontend.submit(rows=10)
    frontend.loop.advance(1.0)
    assert isinstance(frontend.settled[query].error, DeadlineExceeded)
    assert frontend.dispatcher.num_unsettled == 0


def test_the_parts_of_a_cancelled_query_leave_the_queue():
    frontend = Frontend(served(max_batch_size=4))
    frontend.replica.is_ready = False
    query = frontend.submit(rows=10)
    frontend.dispatcher.cancel(query)
    assert len(frontend.version().queue) == 0
    assert frontend.dispatcher.num_unsettled == 0
    assert query not in frontend.settled


def test_parts_of_different_shapes_cannot_be_joined():
    sizes = iter([2, 3])

    def function(query):
        size = next(sizes)
        return QueryOutputs([bytes(8 * size * query.rows)], [(query.rows, size)])

    frontend = Frontend(served(max_batch_size=4), function=function)
    query = frontend.submit(rows=8)
    frontend.loop.turn()
    error = frontend.settled[query].error
    assert isinstance(error, ModelFailed)
    assert "different shapes" in error.message


@settings(max_examples=examples(40))
@given(st.lists(st.binary(max_size=9), min_size=2, max_size=30), st.integers(1, 7))
def test_texts_are_split_between_elements(elements, max_rows):
    for dims, spec in (((), texts()), ((1,), texts("x", Content.TEXT, -1))):
        version = served(signature=signature_of(spec), max_batch_size=max_rows)
        data = join_bytes_elements(elements)
        query = Query("", None, version, (data,), len(elements), dims, 0.0, 1.0, lambda *_: None)
        parts = split_query(query, max_rows)
        assert b"".join(part.inputs[0] for part in parts) == data
        for index, part in enumerate(parts):
            expected = elements[index * max_rows : (index + 1) * max_rows]
            assert part.rows == len(expected)
            assert part.inputs[0] == join_bytes_elements(expected)


@pytest.mark.parametrize("rows", [5, 8, 9])
def test_several_inputs_with_variable_dimensions_are_split_alike(rows):
    specs = (
        TensorSpec("a", DataType.FP32, (-1, -1)),
        TensorSpec("b", DataType.INT64, (-1, 2)),
    )
    version = served(signature=signature_of(*specs), max_batch_size=4)
    a = np.arange(rows * 3, dtype="<f4").reshape(rows, 3)
    b = np.arange(rows * 2, dtype="<i8").reshape(rows, 2)
    query = Query(
        "", None, version, (a.tobytes(), b.tobytes()), rows, (3,), 0.0, 1.0, lambda *_: None
    )
    parts = split_query(query, 4)
    assert [part.rows for part in parts] == [4] * (rows // 4) + ([rows % 4] if rows % 4 else [])
    for index, part in enumerate(parts):
        assert part.inputs[0] == a[4 * index : 4 * index + 4].tobytes()
        assert part.inputs[1] == b[4 * index : 4 * index + 4].tobytes()
        assert part.variable_dims == (3,)


def test_a_query_may_be_as_large_as_the_queue_and_no_larger():
    frontend = Frontend(served(max_batch_size=4), max_queue_size=20, function=doubled)
    assert frontend.dispatcher.max_query_rows(frontend.version().served) == 20
    query = frontend.submit(rows=20)
    frontend.loop.turn()
    assert frontend.settled[query].shapes == [(20, 3)]


def test_outputs_without_variable_dimensions_are_joined():
    signature = signature_of(TensorSpec("x", DataType.FP64, (-1, 3)))
    frontend = Frontend(served(signature=signature, max_batch_size=3), function=echoed)
    query = frontend.submit(rows=7)
    frontend.loop.turn()
    assert numbers(frontend.settled[query]) == [float(each) for each in range(21)]


def test_a_large_query_is_admitted_or_shed_as_a_whole():
    frontend = Frontend(served(), max_queue_size=100)
    for _ in range(12):
        frontend.submit(within_s=30.0)
    frontend.loop.turn()
    waiting = frontend.version().queue.num_rows
    query = frontend.submit(rows=100, within_s=30.0)
    assert isinstance(frontend.settled[query].error, Overloaded)
    assert frontend.version().queue.num_rows == waiting
    fitting = frontend.submit(rows=100 - waiting, within_s=30.0)
    assert fitting not in frontend.settled
    assert frontend.version().queue.num_rows == 100


def test_a_large_query_whose_last_part_would_be_late_is_shed_at_once():
    frontend = Frontend(served(max_batch_size=4))
    frontend.version().batcher.profile.seed([(1, 0.05), (4, 0.05)])
    # A batch was just sent, so that the learned latencies hold.
    frontend.submit(within_s=10.0)
    frontend.loop.turn()
    late = frontend.submit(rows=40, within_s=0.4)
    assert isinstance(frontend.settled[late].error, DeadlineExceeded)
    assert len(frontend.version().queue) == 0
    assert frontend.submit(rows=40, within_s=1.0) not in frontend.settled


def test_the_first_failed_part_ends_the_other_parts():
    frontend = Frontend(served(max_batch_size=4))
    query = frontend.submit(rows=16, within_s=10.0)
    frontend.loop.turn()
    assert len(frontend.version().queue) > 0
    frontend.replica.answer(function=failing(ModelFailed("no")))
    assert isinstance(frontend.settled[query].error, ModelFailed)
    assert len(frontend.version().queue) == 0
    assert frontend.dispatcher.num_unsettled == frontend.dispatcher.unsettled_bytes == 0
    frontend.loop.turn()
    while frontend.replica.in_flight:
        frontend.replica.answer()
        frontend.loop.turn()
    assert sum(batch.rows for batch in frontend.replica.sent) <= 8


@pytest.mark.parametrize("num_replicas", [None, 0])
def test_parts_of_a_removed_version_are_settled_once(num_replicas):
    frontend = Frontend(served(max_batch_size=4), with_replicas=False)
    query = frontend.submit(rows=16, within_s=10.0)
    frontend.apply(*[served(max_batch_size=4, num_replicas=0)] if num_replicas == 0 else [])
    assert query in frontend.settled
    assert frontend.dispatcher.num_unsettled == frontend.dispatcher.unsettled_bytes == 0


def test_a_hopeless_part_removes_the_other_parts_from_the_batch():
    frontend = Frontend(served(max_batch_size=4), with_replicas=False)
    large = frontend.submit(rows=6, within_s=0.1)
    small = frontend.submit(within_s=10.0)
    frontend.clock.advance(0.2)
    replica = frontend.add_replica()
    frontend.dispatcher.schedule_dispatch(frontend.version())
    frontend.loop.turn()
    assert isinstance(frontend.settled[large].error, DeadlineExceeded)
    assert [batch.queries for batch in replica.sent] == [[small]]


def test_an_application_bypasses_the_cache_with_large_queries_too():
    options = ServingOptions(max_batch_size=2, cache_ttl_s=60.0)
    for app, num_batches, counted in (
        (application("uncached", "m:1", uses_cache=False), 6, {}),
        (application("cached", "m:1"), 2, {"miss": 2, "hit": 4}),
        (None, 2, {"miss": 2, "hit": 4}),
    ):
        frontend = Frontend(served(serving=options), function=doubled, cache=PredictionCache(9999))
        for _ in range(3):
            query = frontend.submit(application=app, rows=4)
            frontend.loop.turn()
            assert frontend.settled[query].shapes == [(4, 3)]
        assert len(frontend.replica.sent) == num_batches
        ((name, _),) = frontend.dispatcher.statistics.targets
        assert name == (app.name if app else "")
        (target,) = frontend.dispatcher.statistics.targets.values()
        assert dict(target.cache) == counted
        assert target.outcomes == {"OK": 3}

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skysail_common.errors import DeadlineExceeded, ModelFailed
from skysail_common.serving_options import PolicyName
from skysail_frontend.core.batch import Batch, QueryError
from skysail_frontend.core.query import Outcome, Query
from skysail_testing.examples import examples
from unit.frontend.known_latency import (
    frontend_with,
    held,
    line,
    overdue,
    send,
    version_with,
)
from unit.frontend.parts import FakeReplica, Frontend, doubled, failing, served

EAGER = PolicyName.EAGER
LONG_S = 0.010


def computes(frontend: Frontend, compute_s: float) -> None:
    """Let the version learn a computation time."""
    for _ in range(30):
        send(frontend, within_s=10.0)
        for replica in frontend.replicas:
            while replica.in_flight:
                replica.answer(compute_s=compute_s)
    frontend.loop.turn()
    for replica in frontend.replicas:
        assert not replica.in_flight
        replica.sent.clear()


# Choice of the replica.


def test_an_idle_replica_precedes_a_busy_one():
    frontend = frontend_with(2, policy=EAGER)
    first, second = frontend.replicas
    send(frontend)
    send(frontend)
    assert (first.sizes, second.sizes) == ([1], [1])


def test_the_first_of_several_idle_replicas_gets_the_batch():
    frontend = frontend_with(3, policy=EAGER)
    for _ in range(5):
        send(frontend)
        frontend.replicas[0].answer()
    assert [replica.sizes for replica in frontend.replicas] == [[1] * 5, [], []]


def test_the_replica_that_finishes_first_gets_a_second_batch():
    frontend = frontend_with(2, policy=EAGER, max_batch_size=8)
    first, second = frontend.replicas
    send(frontend, 8, within_s=10.0)
    send(frontend, 2, within_s=10.0)
    send(frontend, 8, within_s=10.0)
    assert (first.sizes, second.sizes) == ([8], [2, 8])


def test_a_second_batch_waits_until_it_is_full():
    frontend = frontend_with(1, policy=EAGER, max_batch_size=8)
    for _ in range(4):
        send(frontend, 3, within_s=10.0)
    assert frontend.replica.sizes == [3, 8]


def test_a_replica_that_is_not_ready_gets_no_batch():
    frontend = frontend_with(2, policy=EAGER)
    first, second = frontend.replicas
    first.is_ready = False
    for _ in range(3):
        send(frontend)
        second.answer()
    assert (first.sizes, second.sizes) == ([], [1, 1, 1])


def test_without_a_ready_replica_queries_stay_queued():
    frontend = frontend_with(2)
    for replica in frontend.replicas:
        replica.is_ready = False
    [query] = send(frontend, within_s=0.005)
    assert query not in frontend.settled
    assert frontend.version().num_ready == 0
    frontend.replicas[1].revive()
    assert frontend.version().num_ready == 1


@pytest.mark.parametrize(
    ("compute_s", "in_flight"), [(0.0005, 2), (0.0015, 2), (0.003, 1), (0.050, 1)]
)
def test_a_second_batch_is_in_flight_only_if_the_model_is_fast(compute_s, in_flight):
    frontend = frontend_with(2, is_known=False, policy=EAGER, max_batch_size=1)
    computes(frontend, compute_s)
    send(frontend, 10, within_s=10.0)
    assert [replica.num_in_flight for replica in frontend.replicas] == [in_flight] * 2


def test_a_second_batch_starts_after_the_first():
    frontend = frontend_with(1, max_batch_size=1)
    # Within 15 ms one query is in time; a second one after it would be late.
    queries = send(frontend, 2, within_s=0.015)
    assert frontend.replicas[0].sizes == [1]
    assert queries[0] not in frontend.settled
    assert frontend.settled[queries[1]].outcome is Outcome.DEFAULT_DEADLINE


# Holding.


def test_a_held_batch_is_sent_at_the_end_of_the_hold():
    frontend, queries = held()
    begin = frontend.clock()
    while not frontend.replicas[0].sent and frontend.clock() < begin + 0.1:
        frontend.loop.advance(0.001)
    [batch] = frontend.replicas[0].sent
    assert batch.queries == queries
    # The batch is sent neither at once nor too late.
    assert begin < batch.sent < begin + 0.1 - line(2)
    assert frontend.replicas[1].sent == []


def test_a_hold_ends_with_the_queue_delay_of_the_model():
    frontend, queries = held(policy=PolicyName.FIXED, max_queue_delay_s=0.020)
    frontend.loop.advance(0.0199)
    assert frontend.replicas[0].sent == []
    frontend.loop.advance(0.0002)
    assert [batch.queries for batch in frontend.replicas[0].sent] == [queries]


def test_a_hold_ends_when_enough_rows_have_arrived():
    frontend, queries = held()
    begin = frontend.clock()
    queries += send(frontend, 62, within_s=0.1)
    [batch] = frontend.replicas[0].sent
    assert batch.queries == queries
    assert batch.sent == begin


def test_a_query_cancelled_during_a_hold_is_not_sent():
    frontend, queries = held()
    for query in queries:
        frontend.dispatcher.cancel(query)
    frontend.loop.advance(1.0)
    assert [replica.sizes for replica in frontend.replicas] == [[], []]


def test_undeploying_during_a_hold_sends_no_batch():
    frontend, queries = held()
    frontend.apply()
    frontend.loop.advance(1.0)
    assert [replica.sizes for replica in frontend.replicas] == [[], []]
    for query in queries:
        assert frontend.settled[query].outcome is Outcome.DEFAULT_NO_REPLICA


def test_new_options_apply_to_held_queries():
    frontend, queries = held(policy=PolicyName.FIXED, max_queue_delay_s=0.050)
    frontend.apply(version_with(policy=EAGER, max_batch_size=1))
    queries += send(frontend, within_s=0.1)
    sent = [replica.sent[0].queries for replica in frontend.replicas]
    assert sent == [[queries[0]], [queries[1]]]


def test_new_options_end_a_hold_at_once():
    frontend, queries = held(policy=PolicyName.FIXED, max_queue_delay_s=0.050)
    frontend.apply(version_with(policy=PolicyName.FIXED, max_queue_delay_s=0.0))
    frontend.loop.turn()
    assert [batch.queries for batch in frontend.replicas[0].sent] == [queries]


# Shedding.


def test_a_hopeless_query_is_shed_before_its_deadline():
    frontend = frontend_with(1, max_batch_size=1)
    send(frontend, within_s=10.0)
    send(frontend, within_s=10.0)
    # Two batches are in flight; after the first result this query cannot be in time.
    [query] = send(frontend, within_s=0.030)
    frontend.loop.advance(0.022)
    assert query not in frontend.settled
    frontend.replicas[0].answer()
    frontend.loop.turn()
    prediction = frontend.settled[query]
    assert prediction.outcome is Outcome.DEFAULT_DEADLINE
    assert type(prediction.error) is DeadlineExceeded
    assert prediction.error.backlog.reason == "hopeless"
    assert prediction.total_s == pytest.approx(0.022)
    assert frontend.replicas[0].sizes == [1, 1]


# Overdue batches.


def test_an_overdue_batch_is_hedged():
    frontend, query = overdue(3)
    assert [replica.sizes for replica in frontend.replicas] == [[1], [1], []]
    assert frontend.replicas[1].sent[0].queries == [query]
    assert query.num_in_flight == 2
    # A model that is too slow does not get each query at all of its replicas.
    frontend.loop.advance(0.5)
    assert frontend.replicas[2].sent == []


def test_a_slightly_late_batch_is_not_hedged():
    frontend = frontend_with(2)
    [query] = send(frontend, within_s=1.0)
    frontend.loop.advance(0.020)
    frontend.replicas[0].answer()
    frontend.loop.advance(1.0)
    assert frontend.replicas[1].sent == []
    assert frontend.settled[query].total_s == pytest.approx(0.020)


def test_no_batch_is_overdue_while_latencies_are_unknown():
    frontend = frontend_with(2, is_known=False)
    send(frontend, within_s=1.0)
    frontend.loop.advance(0.9)
    assert frontend.replicas[1].sent == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_first_of_two_hedged_answers_counts(order):
    frontend, query = overdue()
    frontend.loop.advance(0.005)
    first, second = [frontend.replicas[index] for index in order]
    first.answer()
    prediction = frontend.settled[query]
    assert prediction.outcome is Outcome.OK
    assert prediction.total_s == pytest.approx(0.032)
    frontend.loop.turn()
    second.answer(function=failing(ModelFailed("too late to matter")))
    frontend.loop.turn()
    assert frontend.settled[query] is prediction
    assert query.num_in_flight == 0
    assert frontend.dispatcher.num_unsettled == 0


def test_an_overdue_batch_is_not_requeued_without_another_replica():
    frontend, query = overdue(1)
    assert not query.is_queued
    frontend.replicas[0].answer()
    assert frontend.settled[query].outcome is Outcome.OK
    frontend.loop.turn()
    assert frontend.replicas[0].sizes == [1]


def test_an_overdue_batch_is_hedged_once_a_replica_becomes_free():
    frontend = frontend_with(2)
    early, late = frontend.replicas
    send(frontend, within_s=1.0)
    [query] = send(frontend, within_s=1.0)
    assert late.sizes == [1]
    frontend.loop.advance(0.050)
    early.answer()
    frontend.loop.turn()
    assert early.sent[-1].queries == [query]


def test_an_overdue_batch_is_hedged_once_a_replica_becomes_ready():
    frontend = frontend_with(2)
    late, other = frontend.replicas
    other.is_ready = False
    [query] = send(frontend, within_s=1.0)
    frontend.loop.advance(0.050)
    other.revive()
    frontend.loop.turn()
    assert other.sent[0].queries == [query]
    assert late.sizes == [1]


def test_an_overdue_batch_answered_while_other_replicas_are_busy_is_not_hedged():
    frontend = frontend_with(2, max_batch_size=1)
    computes(frontend, LONG_S)
    late, busy = frontend.replicas
    [query] = send(frontend, within_s=1.0)
    frontend.loop.advance(0.020)
    [other] = send(frontend, within_s=1.0)
    frontend.loop.advance(0.010)
    assert query.is_queued
    late.answer(compute_s=LONG_S)
    busy.answer(compute_s=LONG_S)
    frontend.loop.turn()
    assert (late.sizes, busy.sizes) == ([1], [1])
    assert query in frontend.settled
    assert other in frontend.settled
    assert len(frontend.version().queue) == 0


def test_settled_queries_of_an_overdue_batch_are_not_hedged():
    frontend = frontend_with(2)
    expired, cancelled, good = (frontend.submit(within_s=each) for each in (0.020, 1.0, 1.0))
    frontend.loop.turn()
    assert frontend.replicas[0].sizes == [3]
    frontend.loop.advance(0.010)
    frontend.dispatcher.cancel(cancelled)
    frontend.loop.advance(0.020)
    assert frontend.settled[expired].outcome is Outcome.DEFAULT_DEADLINE
    assert [batch.queries for batch in frontend.replicas[1].sent] == [[good]]


def test_a_hedged_query_in_flight_is_not_shed():
    # At the instant at which the batch is overdue, 3 ms are left: too little for another attempt.
    frontend, query = overdue(within_s=0.030)
    assert frontend.replicas[1].sent == []
    assert query not in frontend.settled
    frontend.replicas[0].answer()
    assert frontend.settled[query].outcome is Outcome.OK


def test_a_hedged_query_without_an_answer_expires():
    frontend, query = overdue(within_s=0.5)
    assert query.num_in_flight == 2
    frontend.loop.advance(0.472)
    assert query not in frontend.settled
    frontend.loop.advance(0.002)
    assert frontend.settled[query].outcome is Outcome.DEFAULT_DEADLINE
    for replica in frontend.replicas:
        replica.answer()
    frontend.loop.turn()
    assert [replica.sizes for replica in frontend.replicas] == [[1], [1]]


@pytest.mark.parametrize("num_replicas", [None, 0])
def test_undeploying_keeps_an_overdue_batch_in_flight(num_replicas):
    frontend = frontend_with(2, max_batch_size=1)
    computes(frontend, LONG_S)
    late, busy = frontend.replicas
    [query] = send(frontend, within_s=1.0)
    frontend.loop.advance(0.020)
    send(frontend, within_s=1.0)
    frontend.loop.advance(0.010)
    assert query.is_queued
    assert busy.num_in_flight == 1
    frontend.apply(*[served(num_replicas=0)] if num_replicas == 0 else [])
    late.answer(compute_s=LONG_S)
    assert frontend.settled[query].outcome is Outcome.OK


def test_a_replica_with_an_overdue_batch_gets_no_other_batch():
    frontend, query = overdue(2)
    late, other = frontend.replicas
    other.answer()
    other.is_ready = False
    [next_query] = send(frontend, within_s=1.0)
    frontend.loop.advance(0.1)
    assert late.sizes == [1]
    assert next_query not in frontend.settled
    late.answer()
    frontend.loop.turn()
    assert [batch.queries for batch in late.sent[1:]] == [[next_query]]
    assert frontend.settled[query].outcome is Outcome.OK


def test_other_replicas_take_the_batches_of_an_overdue_one():
    frontend, _ = overdue(2)
    late, other = frontend.replicas
    other.answer()
    for _ in range(5):
        send(frontend, within_s=1.0)
        other.answer()
    assert (late.num_in_flight, other.num_in_flight) == (1, 0)
    assert other.sizes == [1] * 6


def test_a_hedged_query_whose_second_replica_dies_is_sent_to_a_third():
    frontend, query = overdue(3)
    late, dying, third = frontend.replicas
    dying.lose()
    frontend.loop.turn()
    assert third.sent[0].queries == [query]
    third.answer()
    late.answer()
    assert frontend.settled[query].outcome is Outcome.OK


def test_a_hedged_query_whose_first_replica_dies_stays_in_flight():
    frontend, query = overdue(3)
    late, other, third = frontend.replicas
    late.lose()
    frontend.loop.turn()
    assert not query.is_queued
    assert third.sent == []
    other.answer()
    assert frontend.settled[query].outcome is Outcome.OK


def test_a_hedged_query_that_both_replicas_lose_is_requeued_once():
    frontend, query = overdue(3)
    late, other, third = frontend.replicas
    third.is_ready = False
    late.lose()
    other.lose()
    frontend.loop.turn()
    assert len(frontend.version().queue) == 1
    third.revive()
    frontend.loop.turn()
    third.answer()
    assert frontend.settled[query].outcome is Outcome.OK
    assert len(frontend.version().queue) == 0


# Learning.


def test_the_learned_latency_excludes_the_wait():
    frontend = frontend_with(1, is_known=False)
    send(frontend, 3, within_s=1.0)
    frontend.clock.advance(0.030)
    frontend.replicas[0].answer(compute_s=0.004, wait_s=0.018)
    profile = frontend.version().batcher.profile
    assert profile.num_observed == 1
    assert profile.latency_s(3) == pytest.approx(0.012)


def test_the_learned_latency_is_at_least_the_computation():
    frontend = frontend_with(1, is_known=False)
    send(frontend, within_s=1.0)
    frontend.clock.advance(0.010)
    frontend.replicas[0].answer(compute_s=0.008, wait_s=0.009)
    assert frontend.version().batcher.profile.latency_s(1) == pytest.approx(0.008)


def test_latencies_are_learned_by_rows():
    frontend = frontend_with(1, is_known=False)
    send(frontend, 3, within_s=1.0, rows=4)
    frontend.clock.advance(0.012)
    frontend.replicas[0].answer(compute_s=0.012)
    assert [rows for rows, _ in frontend.version().batcher.profile.points()] == [12]


@pytest.mark.parametrize("num_failed", [1, 3])
def test_a_batch_with_errors_is_not_learned(num_failed):
    frontend = frontend_with(1, is_known=False)
    failed = send(frontend, 3, within_s=1.0)[:num_failed]

    def function(query):
        return QueryError(ModelFailed("bad")) if query in failed else doubled(query)

    frontend.clock.advance(0.030)
    frontend.replicas[0].answer(compute_s=0.030, function=function)
    assert frontend.version().batcher.profile.is_empty
    assert frontend.version().batcher.profile.num_observed == 0


def test_the_policy_learns_the_budget_of_the_most_urgent_query():
    frontend = frontend_with(1, is_known=False, policy=PolicyName.AIMD)
    replica = frontend.replicas[0]
    send(frontend, within_s=1.0)
    replica.answer()
    frontend.submit(within_s=1.0)
    send(frontend, 2, within_s=0.004)
    frontend.clock.advance(0.005)
    replica.answer(compute_s=0.005)
    # The maximum rises from 1 to 3 and falls by a tenth.
    send(frontend, 10, within_s=1.0)
    assert replica.sizes[:3] == [1, 3, 2]


# Random events in random order.


class ReplicasAtWork(RuleBasedStateMachine):
    """A dispatcher whose replicas are late, lost and revived, so that queries are hedged."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = frontend_with(3, max_batch_size=4)
        self.queries: list[Query] = []

    @property
    def busy(self) -> list[FakeReplica]:
        return [replica for replica in self.frontend.replicas if replica.in_flight]

    @rule(number=st.integers(1, 6), within_s=st.sampled_from([0.03, 0.1, 1.0]))
    def submit(self, number, within_s) -> None:
        self.queries += send(self.frontend, number, within_s=within_s)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), compute_s=st.sampled_from([0.0001, 0.02]))
    def answer(self, data, compute_s) -> None:
        data.draw(st.sampled_from(self.busy), "replica").answer(compute_s=compute_s)
        self.frontend.loop.turn()

    @rule(index=st.integers(0, 2))
    def lose_or_revive(self, index) -> None:
        replica = self.frontend.replicas[index]
        if replica.is_ready:
            replica.lose(has_died=False)
        else:
            replica.revive()
        self.frontend.loop.turn()

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.04, 0.1]))
    def advance(self, seconds) -> None:
        self.frontend.loop.advance(seconds)

    @invariant()
    def what_is_not_settled_waits_or_is_with_a_replica(self) -> None:
        with_replicas = [
            query
            for replica in self.frontend.replicas
            for batch in replica.in_flight
            for query in batch.queries
        ]
        for query in self.queries:
            assert query.num_in_flight == with_replicas.count(query) <= 3
            if not query.is_settled:
                assert query.is_queued or query.num_in_flight

    @invariant()
    def a_replica_has_each_query_once(self) -> None:
        for replica in self.frontend.replicas:
            held = [query for batch in replica.in_flight for query in batch.queries]
            assert len(set(held)) == len(held)

    @invariant()
    def nothing_was_called_hopeless_that_a_replica_has(self) -> None:
        for query, prediction in self.frontend.settled.predictions.items():
            if prediction.error is not None and query.num_in_flight:
                assert self.frontend.clock() >= query.deadline - 0.001

    def teardown(self) -> None:
        for replica in self.frontend.replicas:
            if not replica.is_ready:
                replica.revive()
        self.frontend.loop.turn()
        while self.busy:
            self.busy[0].answer()
            self.frontend.loop.turn()
        self.frontend.loop.advance(2.0)
        while self.busy:
            self.busy[0].answer()
            self.frontend.loop.turn()
        assert len(self.frontend.settled) == len(self.queries)
        assert self.frontend.dispatcher.num_unsettled == 0
        assert len(self.frontend.version().queue) == 0


TestReplicas = ReplicasAtWork.TestCase
TestReplicas.settings = settings(max_examples=examples(20), stateful_step_count=40)


# A stream of urgent queries.


@pytest.mark.parametrize(
    ("load", "at_least_s", "at_most_s"), [(0.9, 0.0, 0.1), (1.1, 2.0, 3.0), (2.0, 2.0, 3.0)]
)
def test_a_query_with_a_long_budget_waits_long_only_under_overload(load, at_least_s, at_most_s):
    frontend = frontend_with(1, max_batch_size=1)
    replica, loop = frontend.replicas[0], frontend.loop
    send_to_replica = replica.send

    def send_and_answer(batch: Batch) -> None:
        send_to_replica(batch)
        loop.call_later(line(1), lambda: replica.answer(batch, compute_s=line(1)))

    def stream(seconds: float) -> list[Query]:
        queries, until = [], frontend.clock() + seconds
        while frontend.clock() < until:
            queries.append(frontend.submit(within_s=0.5))
            loop.advance(line(1) / load)
        return queries

    replica.send = send_and_answer
    stream(1.0)
    patient = frontend.submit(within_s=3.0)
    urgent = stream(3.0)
    loop.advance(1.0)
    assert at_least_s <= frontend.settled[patient].total_s <= at_most_s
    # Queries beyond the capacity are shed, and the others are in time.
    errors = [error for query in urgent if (error := frontend.settled[query].error) is not None]
    assert len(errors) == pytest.approx(len(urgent) * max(0.0, 1 - 1 / load), abs=0.1 * len(urgent))
    assert {error.backlog.reason for error in errors} <= {"hopeless"}

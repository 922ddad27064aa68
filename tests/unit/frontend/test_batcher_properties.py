from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skysail_common.clock import NEVER
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_frontend.core.batching.batcher import Batcher
from skysail_frontend.core.batching.policies import ShedReason
from skysail_frontend.core.query import Query
from skysail_testing.examples import examples
from unit.frontend.batcher_queries import NOW, line, query


class BatcherAtWork(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.batcher = Batcher(ServingOptions(), default_queue_rows=200)
        self.waiting: list[Query] = []
        self.gone: set[Query] = set()
        self.sent: list[Query] = []

    @rule(
        within_s=st.sampled_from([0.012, 0.03, 0.05, 0.05, 0.05, 0.2, NEVER]),
        rows=st.sampled_from([1, 1, 1, 2, 7, 70]),
        number=st.integers(1, 40),
        num_replicas=st.integers(0, 4),
    )
    def push(self, within_s, rows, number, num_replicas) -> None:
        for _ in range(number):
            each = query(within_s, rows, arrival=self.now)
            if self.batcher.refusal(each, self.now, num_replicas) is None:
                self.batcher.push(each)
                self.waiting.append(each)

    @rule(num_replicas=st.integers(1, 4), starts_in_s=st.sampled_from([0.0, 0.0, 0.01]))
    def decide(self, num_replicas, starts_in_s) -> None:
        now = self.now
        decision = self.batcher.decide(now, now + starts_in_s, num_replicas)
        for each, reason in decision.shed:
            assert (each.deadline <= now) == (reason is ShedReason.EXPIRED)
        assert all(each.deadline > now for each in decision.batch)
        deadlines = [each.deadline for each in decision.batch]
        assert deadlines == sorted(deadlines)
        taken = [each for each, _ in decision.shed] + decision.batch
        self.gone.update(taken)
        assert len(set(taken)) == len(taken)
        assert set(taken) <= set(self.waiting), "a query left twice"
        self.waiting = [each for each in self.waiting if each not in self.gone]
        if decision.batch:
            rows = sum(each.rows for each in decision.batch)
            assert len(decision.batch) == 1 or rows <= self.batcher.options.max_batch_size
            # The remaining queries are not more urgent.
            assert all(each.deadline >= deadlines[-1] for each in self.waiting)
            self.sent = decision.batch
        elif self.waiting:
            # A hold is shorter than the latency of a batch.
            assert now < decision.wait_until < now + 0.2
        else:
            assert decision.wait_until == NEVER

    @precondition(lambda self: self.sent)
    @rule(factor=st.sampled_from([0.5, 1.0, 1.0, 4.0]))
    def learn(self, factor) -> None:
        rows, head = sum(each.rows for each in self.sent), self.sent[0]
        self.batcher.observe(rows, factor * line(rows), head.deadline - head.arrival, self.now)

    @precondition(lambda self: self.sent)
    @rule()
    def lose(self) -> None:
        for each in self.sent:
            self.batcher.requeue(each)
        self.gone.difference_update(self.sent)
        self.waiting += self.sent
        self.sent = []

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        each = data.draw(st.sampled_from(self.waiting), "query")
        self.batcher.queue.remove(each)
        self.waiting.remove(each)

    @rule(seconds=st.sampled_from([0.0001, 0.005, 0.02, 0.5]))
    def advance(self, seconds) -> None:
        self.now += seconds

    @rule(
        policy=st.sampled_from(PolicyName),
        max_batch_size=st.sampled_from([1, 8, 64]),
        delay_s=st.sampled_from([None, 0.0, 0.005]),
        preferred=st.sampled_from([(), (2, 4), (8,)]),
    )
    def change(self, policy, max_batch_size, delay_s, preferred) -> None:
        sizes = tuple(size for size in preferred if size <= max_batch_size)
        self.batcher.options = ServingOptions(
            max_batch_size=max_batch_size,
            policy=policy,
            max_queue_delay_s=delay_s,
            preferred_batch_sizes=sizes,
        )

    @invariant()
    def the_queue_holds_the_other_queries(self) -> None:
        assert len(self.batcher.queue) == len(self.waiting)
        assert self.batcher.queue.num_rows == sum(each.rows for each in self.waiting)
        assert all(each.is_queued for each in self.waiting)

    def teardown(self) -> None:
        self.batcher.options = ServingOptions(policy=PolicyName.EAGER)
        while self.waiting:
            self.decide(1, 0.0)
        assert self.batcher.queue.pop() is None


TestBatcher = BatcherAtWork.TestCase
TestBatcher.settings = settings(max_examples=examples(25), stateful_step_count=40)

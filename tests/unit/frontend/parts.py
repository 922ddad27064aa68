"""A core with fake replicas, a fake clock and a fake event loop, for the tests of the frontend."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from skysail_common.clock import NEVER
from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_common.serving_options import ServingOptions
from skysail_common.tensors import Content, DataType, InputType, Signature, TensorSpec
from skysail_frontend.core.batch import Batch, QueryError, QueryOutputs
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.prediction_cache import PredictionCache
from skysail_frontend.core.query import Prediction, Query
from skysail_frontend.core.routes import Application, Route, RouteTable, ServedVersion
from skysail_frontend.core.version_dispatcher import VersionDispatcher
from skysail_testing.clock import FakeClock, FakeLoop

DOUBLES = Signature(
    (TensorSpec("x", DataType.FP64, (-1, 3)),), (TensorSpec("y", DataType.FP64, (-1, 3)),)
)

Answer = QueryOutputs | QueryError
Function = Callable[[Query], Answer]


def signature_of(*specs: TensorSpec) -> Signature:
    """Return a signature with equal inputs and outputs."""
    return Signature(specs, specs)


def texts(name: str = "x", content: Content = Content.TEXT, *dims: int) -> TensorSpec:
    return TensorSpec(name, DataType.BYTES, (-1, *dims), content)


def served(
    name: str = "m:1",
    signature: Signature = DOUBLES,
    *,
    max_batch_size: int = 8,
    is_current: bool = True,
    num_replicas: int = 1,
    serving: ServingOptions | None = None,
    artifact_sha256: str = "",
) -> ServedVersion:
    return ServedVersion(
        ModelVersion.parse(name),
        signature,
        serving or ServingOptions(max_batch_size=max_batch_size),
        is_current=is_current,
        num_replicas=num_replicas,
        artifact_sha256=artifact_sha256,
    )


NO_DEFAULT = object()


def application(
    name: str = "app",
    *routes: str,
    default: object = NO_DEFAULT,
    slo_s: float = 0.1,
    uses_cache: bool = True,
) -> Application:
    """Return an application with routes such as `m:1`, or `m:` for the current version of `m`."""
    has_default = default is not NO_DEFAULT
    return Application(
        name,
        InputType.DOUBLES,
        slo_s,
        tuple(Route(*route.split(":"), weight=1.0) for route in routes),
        has_default=has_default,
        default_output=default if has_default else None,
        uses_cache=uses_cache,
    )


class Settlements:
    """The predictions of settled queries; the test fails if a query is settled twice."""

    def __init__(self) -> None:
        self.predictions: dict[Query, Prediction] = {}

    def __call__(self, query: Query, prediction: Prediction) -> None:
        if query in self.predictions:
            # The core would catch an `Exception`.
            pytest.fail("settled twice")
        self.predictions[query] = prediction

    def __getitem__(self, query: Query) -> Prediction:
        return self.predictions[query]

    def __contains__(self, query: Query) -> bool:
        return query in self.predictions

    def __len__(self) -> int:
        return len(self.predictions)


def doubled(query: Query) -> Answer:
    array = np.frombuffer(query.inputs[0], "<f8") * 2
    return QueryOutputs([array.tobytes()], [(query.rows, array.size // query.rows)])


def echoed(query: Query) -> Answer:
    """Return the inputs as outputs, for signatures without variable dimensions."""
    assert query.version is not None
    shapes = [(query.rows, *spec.shape[1:]) for spec in query.version.signature.inputs]
    return QueryOutputs(list(query.inputs), shapes)


def failing(error: SkysailError) -> Function:
    return lambda _: QueryError(error)


class FakeReplica:
    """A replica that answers by `answer`, or in the next turn if it has a loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        version: VersionDispatcher,
        function: Function = doubled,
        loop: FakeLoop | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.version = version
        self.function = function
        self.loop = loop
        self.container_id = f"c{len(version.replicas)}"
        self.is_ready = True
        self.free_at = 0.0
        self.in_flight: list[Batch] = []
        self.sent: list[Batch] = []
        self._inputs: dict[Batch, list[Sequence[bytes]]] = {}
        version.replicas.append(self)

    @property
    def num_in_flight(self) -> int:
        return len(self.in_flight)

    def send(self, batch: Batch) -> None:
        assert self.is_ready
        self.in_flight.append(batch)
        self.sent.append(batch)
        self._inputs[batch] = [query.inputs for query in batch.queries]
        if self.loop is not None:
            self.loop.call_soon(lambda: self.answer(batch))

    def answer(
        self,
        batch: Batch | None = None,
        *,
        compute_s: float = 0.0001,
        wait_s: float = 0.0,
        function: Function | None = None,
    ) -> None:
        """Answer a batch, by default the oldest."""
        batch = batch or self.in_flight[0]
        self.in_flight.remove(batch)
        call = function or self.function
        answers = []
        for query, inputs in zip(batch.queries, self._inputs.pop(batch), strict=True):
            # A settled query frees its inputs, but the replica still has them.
            held, query.inputs = query.inputs, inputs
            answers.append(call(query))
            query.inputs = held
        self.dispatcher.complete_batch(self.version, batch, answers, compute_s, wait_s)

    def lose(self, *, has_died: bool = True) -> None:
        """Lose the link with its batches in flight."""
        self.is_ready = False
        lost, self.in_flight = self.in_flight, []
        self.dispatcher.requeue_batches(self.version, lost, has_died)

    def revive(self) -> None:
        self.is_ready = True
        self.dispatcher.schedule_dispatch(self.version)

    @property
    def sizes(self) -> list[int]:
        """The number of queries of each sent batch."""
        return [len(batch.queries) for batch in self.sent]


class TurningLoop(FakeLoop):
    """A loop with the turns of the running event loop and the timers of the fake clock."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)


async def turns(count: int = 12) -> None:
    """Run some turns of the running event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


class Frontend:
    """A dispatcher with its fake clock, loop and replicas."""

    def __init__(
        self,
        *versions: ServedVersion,
        applications: Sequence[Application] = (),
        loop: type[FakeLoop] = FakeLoop,
        function: Function | None = None,
        max_queue_size: int = 100,
        default_timeout_s: float = 60.0,
        with_replicas: bool = True,
        cache: PredictionCache | None = None,
        max_queue_bytes: int = 1 << 30,
    ) -> None:
        """Replicas answer in the next turn by `function`; without one the test answers."""
        self.clock = FakeClock()
        self.loop = loop(self.clock)
        self.dispatcher = Dispatcher(
            self.clock, self.loop, max_queue_size, default_timeout_s, cache, max_queue_bytes
        )
        self.dispatcher.apply(RouteTable(applications, versions))
        self.settled = Settlements()
        self.replicas: list[FakeReplica] = []
        for version in versions:
            if version.num_replicas and with_replicas:
                self.add_replica(str(version.name), function)

    @property
    def replica(self) -> FakeReplica:
        assert len(self.replicas) == 1
        return self.replicas[0]

    def version(self, name: str = "m:1") -> VersionDispatcher:
        version = self.dispatcher.version(ModelVersion.parse(name))
        assert version is not None
        return version

    def add_replica(self, name: str = "m:1", function: Function | None = None) -> FakeReplica:
        loop = None if function is None else self.loop
        replica = FakeReplica(self.dispatcher, self.version(name), function or doubled, loop)
        self.replicas.append(replica)
        return replica

    def apply(self, *versions: ServedVersion, applications: Sequence[Application] = ()) -> None:
        self.dispatcher.apply(RouteTable(applications, versions))

    def query(
        self,
        name: str | None = "m:1",
        *,
        within_s: float = 0.1,
        rows: int = 1,
        application: Application | None = None,
        query_id: str = "",
    ) -> Query:
        """Return a query without submitting it."""
        version = None
        if name is not None:
            version = self.dispatcher.table.versions.get(ModelVersion.parse(name))
        now = self.clock()
        inputs = (np.arange(3.0 * rows).tobytes(),)
        deadline = NEVER if within_s == NEVER else now + within_s
        return Query(query_id, application, version, inputs, rows, (), now, deadline, self.settled)

    def submit(self, name: str | None = "m:1", **options: object) -> Query:
        query = self.query(name, **options)
        self.dispatcher.submit(query)
        return query

"""The metrics page: the counters of the core in the format of Prometheus."""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skysail_common import __version__
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.load import version_capacity
from skysail_frontend.core.statistics import Histogram, Statistics

_LAG_EVERY_S = 0.5
_LABELLED = re.compile(r"^([\w:]+)\{", re.MULTILINE)
_BARE = re.compile(r"^([\w:]+) ", re.MULTILINE)
_VERSION = ("model", "version")
_TARGET = ("application", *_VERSION)
_TRANSPORT_NOW = ("connections", "open_calls", "unsent_bytes", "untaken_bytes")
"""Gauges of the transport; its other numbers are counters."""

Counters = Callable[[], Mapping[str, int]]


class FrontendCollector(Collector):
    """A collector that reads the state of a dispatcher and its transport at each scrape."""

    def __init__(self, dispatcher: Dispatcher, transport: Counters) -> None:
        self._dispatcher = dispatcher
        self._transport = transport

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from _target_metrics(self._dispatcher.statistics)
        yield from _version_metrics(self._dispatcher.statistics)
        yield from _live_metrics(self._dispatcher)
        yield from _frontend_metrics(self._dispatcher.statistics)
        yield from _transport_metrics(self._transport())
        build = GaugeMetricFamily("skysail_build_info", "Version; always 1", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build


def _histogram(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[tuple[str, ...], Histogram]],
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in values:
        if not any(histogram.counts):
            # A version without queries adds no lines to the page.
            continue
        total = 0
        buckets = []
        for bound, number in zip(
            (*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True
        ):
            total += number
            buckets.append((bound, total))
        family.add_metric(key, buckets, histogram.sum)
    return family


def _target_metrics(statistics: Statistics) -> Iterator[Metric]:
    found = [
        ((application, *(version or ("", ""))), target)
        for (application, version), target in statistics.targets.items()
    ]
    queries = CounterMetricFamily(
        "skysail_queries", "Queries by how they were answered", labels=(*_TARGET, "outcome")
    )
    for key, target in found:
        for outcome, number in target.outcomes.items():
            queries.add_metric((*key, outcome), number)
    yield queries
    cancelled = CounterMetricFamily(
        "skysail_cancelled_queries",
        "Queries whose callers left before the deadline",
        labels=_TARGET,
    )
    for key, target in found:
        if target.num_cancelled:
            cancelled.add_metric(key, target.num_cancelled)
    yield cancelled
    cache = CounterMetricFamily(
        "skysail_cache_queries", "Queries by cache result", labels=(*_TARGET, "result")
    )
    for key, target in found:
        for result, number in target.cache.items():
            cache.add_metric((*key, result), number)
    yield cache
    yield _histogram(
        "skysail_query_latency_seconds",
        "Time from arrival to answer",
        _TARGET,
        [(key, target.latency_s) for key, target in found],
    )


def _frontend_metrics(statistics: Statistics) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "skysail_refused_queries",
        "Queries that failed before they reached a model, by class of error",
        labels=("reason",),
    )
    for reason, number in statistics.refusals.by_class.items():
        refused.add_metric((reason,), number)
    yield refused
    yield GaugeMetricFamily(
        "skysail_stale_routes",
        "1 while the latest routes from management are not applied",
        float(statistics.has_stale_routes),
    )
    yield _histogram(
        "skysail_event_loop_lag_seconds",
        "Delay of the timers of the event loop",
        (),
        [((), statistics.loop_lag_s)],
    )


def _version_metrics(statistics: Statistics) -> Iterator[Metric]:
    found = list(statistics.versions.items())
    for name, text, attribute in (
        ("skysail_queue_wait_seconds", "Time of a query in the queue", "queue_wait_s"),
        ("skysail_batch_rows", "Rows of a batch", "batch_rows"),
        ("skysail_batch_wait_seconds", "Time of a batch in transfer and queues", "batch_wait_s"),
        (
            "skysail_compute_seconds",
            "Time of a batch in the user's function, with decoding and encoding",
            "compute_s",
        ),
        (
            "skysail_deadline_used_ratio",
            "Share of its budget that the most urgent query of a batch had used at the answer",
            "deadline_used",
        ),
    ):
        yield _histogram(
            name, text, _VERSION, [(key, getattr(each, attribute)) for key, each in found]
        )
    for name, text, attribute in (
        ("skysail_dispatches", "Batches by the reason for which they were sent", "dispatches"),
        ("skysail_sheds", "Queries by the reason for which they were shed", "sheds"),
    ):
        counter = CounterMetricFamily(name, text, labels=(*_VERSION, "reason"))
        for key, each in found:
            for reason, number in getattr(each, attribute).items():
                counter.add_metric((*key, reason.value), number)
        yield counter
    late = CounterMetricFamily(
        "skysail_late_rows",
        "Rows not answered that an idle replica would have answered in time",
        labels=_VERSION,
    )
    for key, each in found:
        late.add_metric(key, each.late_rows)
    yield late


def _live_metrics(dispatcher: Dispatcher) -> Iterator[Metric]:
    def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"skysail_{name}", text, labels=(*_VERSION, *labels))

    queue = gauge("queue_rows", "Queued rows")
    rate = gauge("arrival_rows_per_second", "Rate at which rows arrive")
    capacity = gauge("replica_capacity_rows_per_second", "Rows that one replica answers in time")
    arrived = CounterMetricFamily("skysail_arrived_rows", "Rows that have arrived", labels=_VERSION)
    latency = gauge("profile_latency_seconds", "Learned latency of a batch", "rows")
    ready = gauge("replica_ready", "1 if a replica accepts batches", "container")
    in_flight = gauge("replica_batches_in_flight", "Batches in flight to a replica", "container")
    backlog = gauge("replica_backlog_seconds", "Expected time until a replica is idle", "container")
    now = dispatcher.clock()
    for name in dispatcher.table.versions:
        version = dispatcher.version(name)
        if version is None:
            continue
        queue.add_metric(name, version.queue.num_rows)
        rate.add_metric(name, version.batcher.rate.rows_per_s(now))
        capacity.add_metric(name, version_capacity(version))
        arrived.add_metric(name, version.batcher.rate.num_rows)
        for rows, latency_s in version.batcher.profile.points():
            latency.add_metric((*name, str(rows)), latency_s)
        for replica in version.replicas:
            key = (*name, replica.container_id)
            ready.add_metric(key, version.is_ready(replica))
            in_flight.add_metric(key, replica.num_in_flight)
            backlog.add_metric(key, max(0.0, replica.free_at - now))
    cache = dispatcher.coalescing.cache
    yield GaugeMetricFamily("skysail_cache_bytes", "Memory of the cache", cache.size_bytes)
    yield GaugeMetricFamily("skysail_cache_entries", "Predictions in the cache", len(cache))
    yield CounterMetricFamily(
        "skysail_cache_evictions", "Predictions evicted for lack of memory", cache.num_evicted
    )
    yield from (queue, rate, arrived, capacity, latency, ready, in_flight, backlog)


def _transport_metrics(counters: Mapping[str, int]) -> Iterator[Metric]:
    for name, number in counters.items():
        full_name = f"skysail_transport_{name}"
        text = f"Transport: {name.replace('_', ' ')}"
        if name in _TRANSPORT_NOW:
            yield GaugeMetricFamily(full_name, text, number)
        else:
            yield CounterMetricFamily(full_name, text, number)


def merge_pages(pages: Mapping[str, str]) -> str:
    """Return one page with the samples of several workers, distinguished by the label `worker`.

    A sum would fall whenever a worker restarts or responds too late, which Prometheus takes for a
    reset of the counter.

    Args:
        pages: The page of each worker, by the value of its label.
    """
    heads: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        for family in f"\n{page}".split("\n# HELP ")[1:]:
            text, kind, lines = f"{family}\n".split("\n", 2)
            heads.setdefault(text.partition(" ")[0], f"# HELP {text}\n{kind}\n")
            samples.setdefault(text.partition(" ")[0], []).append(_with_label(lines, worker))
    return "".join(head + "".join(samples[name]) for name, head in heads.items())


def _with_label(lines: str, worker: str) -> str:
    lines = _LABELLED.sub(rf'\1{{worker="{worker}",', lines.rstrip("\n"))
    return _BARE.sub(rf'\1{{worker="{worker}"}} ', lines) + "\n" * bool(lines)


class MetricsPage:
    """Serves GET /metrics."""

    def __init__(self, dispatcher: Dispatcher, transport: Counters) -> None:
        self._statistics = dispatcher.statistics
        self._registry = CollectorRegistry()
        self._registry.register(FrontendCollector(dispatcher, transport))
        ProcessCollector(registry=self._registry)

    def routes(self) -> list[BaseRoute]:
        """Return the path and its handler."""
        return [Route("/metrics", self.metrics)]

    async def metrics(self, request: Request) -> Response:
        """Answer with the current metrics."""
        return Response(self.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    async def watch_lag(self) -> None:
        """Measure the delay of the timers of the event loop, forever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._statistics.loop_lag_s.observe(max(0.0, loop.time() - due))

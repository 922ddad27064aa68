"""Options that change while queries run."""

import os
import signal
import time
from collections import Counter
from dataclasses import replace

import grpc
import numpy as np
import psutil
import pytest

import skysail
from skysail import errors
from skysail_common.rpc.messages import duration
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_protos.v1 import (
    management_pb2,
    management_pb2_grpc,
    routing_pb2,
)
from skysail_testing.processes import eventually
from skysail_testing.query_plane import Plane, infer_request, refused
from skysail_testing.traffic import traffic

OPTIONS = [
    ServingOptions(policy=PolicyName.HYBRID),
    ServingOptions(policy=PolicyName.FIXED, max_queue_delay_s=0.002, max_batch_size=8),
    ServingOptions(policy=PolicyName.AIMD, max_queue_delay_s=0.001),
    ServingOptions(policy=PolicyName.QUANTILE),
    ServingOptions(policy=PolicyName.EAGER, priority_step_s=0.5),
    ServingOptions(max_batch_size=32, preferred_batch_sizes=(4, 8), max_queue_delay_s=0.001),
    ServingOptions(max_batch_size=1, max_queue_size=500, cache_ttl_s=1.5),
]


class TestTuning:
    def test_options_are_changed_under_traffic_without_losing_a_query(self, plane, untuned):
        client = plane.client
        assert {options.policy for options in OPTIONS} == set(PolicyName)
        replicas = client.describe_version(untuned).replicas
        with traffic(client, untuned, [1, 2, 3], callers=4) as seen:
            for options in OPTIONS:
                assert client.tune(untuned, **vars(options)) == options
                assert client.describe_version(untuned).deployment.serving == options
                rows = np.arange(90.0).reshape(30, 3)
                found = client.predict_batch(untuned, rows)
                assert np.array_equal([each.output for each in found], rows * 2)
                seen.wait_for_more(20)
        assert set(seen.outcomes) == {"OK"}, seen.problems[:3]
        assert client.describe_version(untuned).replicas == replicas

    def test_options_hold_once_they_are_answered(self, plane, untuned):
        for number in range(65, 85):
            plane.client.tune(untuned, **vars(ServingOptions(max_queue_size=number)))
            request = infer_request(untuned, np.ones((number, 3)))
            assert plane.inference.ModelInfer(request, timeout=10).outputs[0].shape[0] == number

    def test_the_policy_decides_about_batches(self, plane, untuned):
        def reasons() -> dict[str, float]:
            return plane.page().by("reason", "skysail_dispatches_total", model=untuned)

        delay_s = 0.1
        for options, reason in (
            (ServingOptions(policy=PolicyName.EAGER), "eager"),
            (ServingOptions(policy=PolicyName.FIXED, max_queue_delay_s=delay_s), "delay"),
            (ServingOptions(policy=PolicyName.FIXED, max_batch_size=1), "full"),
            (ServingOptions(policy=PolicyName.HYBRID), "single_replica"),
        ):
            plane.client.tune(untuned, **vars(options))
            before = reasons()
            prediction = plane.client.predict(untuned, [1, 2, 3])
            after = reasons()
            changed = {name for name in after if after[name] != before.get(name, 0)}
            if reason == "single_replica":
                # Or what the present rate makes of it.
                assert changed <= {"single_replica", "target", "full"}
            else:
                assert changed == {reason}
            if reason == "delay":
                assert delay_s <= prediction.timings.queue_s < 0.5

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("max_batch_size", ServingOptions(max_batch_size=0)),
            ("max_batch_size", ServingOptions(max_batch_size=65_537)),
            ("preferred_batch_sizes", ServingOptions(preferred_batch_sizes=(8, 4))),
            ("preferred_batch_sizes", ServingOptions(preferred_batch_sizes=(65,))),
            ("max_queue_size", ServingOptions(max_queue_size=0)),
            ("max_queue_delay_s", ServingOptions(max_queue_delay_s=-1)),
            ("priority_step_s", ServingOptions(priority_step_s=float("nan"))),
            ("cache_ttl_s", ServingOptions(cache_ttl_s=86_401)),
        ],
    )
    def test_impossible_options_are_refused_by_name(self, plane, double, name, options):
        before = plane.client.describe_version(double).deployment.serving
        with pytest.raises(errors.InvalidInput, match=name):
            plane.client.tune(double, **vars(options))
        assert plane.client.describe_version(double).deployment.serving == before

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("max_batch_size", {"max_batch_size": 65_537}),
            ("preferred_batch_sizes", {"preferred_batch_sizes": [8, 4]}),
            ("preferred_batch_sizes", {"preferred_batch_sizes": [0]}),
            ("max_queue_delay_s", {"max_queue_delay": duration(-1)}),
            ("max_queue_delay_s", {"max_queue_delay": duration(86_401)}),
            ("priority_step_s", {"priority_step": duration(-0.1)}),
            ("cache_ttl_s", {"cache_ttl": duration(-1)}),
            ("no batching policy has the number 99", {"policy": 99}),
        ],
    )
    def test_management_refuses_impossible_options_too(self, plane, double, name, options):
        before = plane.client.describe_version(double).deployment.serving
        with grpc.insecure_channel(plane.cluster.management) as channel:
            stub = management_pb2_grpc.ManagementServiceStub(channel)
            request = management_pb2.SetServingOptionsRequest(
                model=double, serving=routing_pb2.ServingOptions(**options)
            )
            error = refused(lambda: stub.SetServingOptions(request, timeout=10))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert name in error.details()
        assert plane.client.describe_version(double).deployment.serving == before

    def test_what_is_not_deployed_cannot_be_tuned(self, plane, double):
        with pytest.raises(errors.ModelNotFound, match="nope"):
            plane.client.tune("nope", **vars(ServingOptions()))
        with pytest.raises(errors.ModelNotFound, match="9"):
            plane.client.tune(double, **vars(ServingOptions()), version="9")

    def test_options_survive_a_kill_of_management_and_of_the_frontend(self, plane, untuned):
        client = plane.client
        options = replace(OPTIONS[5], cache_ttl_s=60, max_queue_size=77)
        plane.client.tune(untuned, **vars(options))
        os.kill(plane.cluster.service_pid("skysail_management"), signal.SIGKILL)
        eventually(lambda: _is_whole(client), what="management is back")
        assert client.describe_version(untuned).deployment.serving == options
        self.check_held(plane, untuned)
        frontend = plane.cluster.service_pid("skysail_frontend")
        os.kill(frontend, signal.SIGKILL)
        eventually(lambda: _is_linked(plane, untuned, frontend), what="the frontend is back")
        self.check_held(plane, untuned)

    def check_held(self, plane: Plane, model: str) -> None:
        """Return if the model caches and takes 77 rows."""
        value = [0.25, time.monotonic(), 0.5]
        before = self.cache_results(plane, model)
        for _ in range(3):
            assert plane.client.predict(model, value, timeout_s=20).outcome == "OK"
        after = self.cache_results(plane, model)
        assert after - before == {"miss": 1, "hit": 2}
        request = infer_request(model, np.ones((78, 3)))
        error = refused(
            lambda: plane.inference.ModelInfer(request, timeout=10, wait_for_ready=True)
        )
        assert "batch-size must be <= 77" in error.details()

    @staticmethod
    def cache_results(plane: Plane, model: str) -> Counter[str]:
        return Counter(plane.page().by("result", "skysail_cache_queries_total", model=model))


def _is_whole(client: skysail.Client) -> bool:
    try:
        status = client.status()
    except errors.Unavailable:
        return False
    return status.is_store_reachable and len(status.frontends) == 1


def _is_linked(plane: Plane, model: str, old_pid: int) -> bool:
    """Tell whether another frontend runs and is linked to the model's replica."""
    try:
        pid = plane.cluster.service_pid("skysail_frontend")
        return pid != old_pid and plane.page().sum("skysail_replica_ready", model=model) == 1
    except (AssertionError, OSError, psutil.NoSuchProcess):
        return False

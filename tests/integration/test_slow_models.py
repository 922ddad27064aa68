"""Deploys of models that are slow, print, or fail with long errors."""

import json

import numpy as np
import pytest

from skysail import errors
from skysail_testing.clusters import running_cluster

ROW = np.ones((1, 2))


def slow(x):
    """Sleep for `SLOW` seconds and record the batch size of each call in the replica."""
    import os
    import time

    if "SLOW" in os.environ:
        with open("calls", "a") as file:
            file.write(f"{len(x)}\n")
        time.sleep(float(os.environ["SLOW"]))
    return x


def has_many_columns(x):
    import os

    if "FAILS" in os.environ:
        raise KeyError([f"column {number:05}" for number in range(5000)])
    return x


def prints(x):
    import logging
    import os
    import warnings

    if "FULL" not in os.environ:
        return x
    saved = os.dup(1), os.dup(2)
    for descriptor in (1, 2):
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
    try:
        print("x" * 10_000, "\ud800", flush=True)
        logging.getLogger("of the model").warning("cannot be written")
        warnings.warn("cannot be shown", stacklevel=1)
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
    return x


for _function in (slow, has_many_columns, prints):
    _function.__module__ = "__main__"


def calls_of(cluster, client, model: str) -> list[int]:
    (replica,) = client.describe_version(model).replicas
    path = cluster.data_dir / "replicas" / replica.container_id / "work" / "calls"
    return [int(line) for line in path.read_text().split()]


def test_a_slow_model_is_called_once_before_it_is_ready(cluster, client):
    client.deploy(slow, name="warmed-up", version="1", example=ROW, environment={"SLOW": "0.8"})
    assert calls_of(cluster, client, "warmed-up") == [1]
    assert client.predict("warmed-up", ROW[0], timeout_s=20).output.tolist() == [1.0, 1.0]
    client.undeploy("warmed-up", force=True)


def test_a_quick_model_is_warmed_up_with_several_batch_sizes(cluster, client):
    client.deploy(
        slow, name="quick", version="1", example=ROW, max_batch_size=4, environment={"SLOW": "0"}
    )
    assert calls_of(cluster, client, "quick") == [1, 1, 4, 1]
    client.undeploy("quick", force=True)


def test_without_a_warm_up_the_first_query_is_the_first_call(cluster, client):
    deployed = client.deploy(
        slow, name="cold", version="1", example=ROW, warm_up=False, environment={"SLOW": "0"}
    )
    assert deployed.deployment is not None
    assert not deployed.deployment.warm_up
    assert client.predict("cold", ROW[0]).output.tolist() == [1.0, 1.0]
    assert calls_of(cluster, client, "cold") == [1]
    client.undeploy("cold", force=True)


def test_a_start_timeout_names_the_slow_step_and_the_setting(client):
    with pytest.raises(errors.DeployFailed) as caught:
        client.deploy(
            slow,
            name="too-slow",
            version="1",
            example=ROW,
            environment={"SLOW": "60"},
            start_timeout_s=2.0,
        )
    first_line = caught.value.message.splitlines()[0]
    assert "not ready within 2 s: warming up, call 1" in first_line, caught.value.message
    assert "raise start_timeout_s" in first_line


def test_a_long_failure_reason_is_shortened(client):
    with pytest.raises(errors.DeployFailed) as caught:
        client.deploy(
            has_many_columns,
            name="many-columns",
            version="1",
            example=ROW,
            environment={"FAILS": "1"},
        )
    assert "KeyError: ['column 00000', 'column 00001'" in caught.value.message
    assert "'column 04999']" in caught.value.message
    assert len(caught.value.message) < 10_000


def test_a_model_that_prints_to_a_full_disk_answers(client):
    client.deploy(prints, name="prints", version="1", example=ROW, environment={"FULL": "1"})
    assert client.predict("prints", ROW[0]).output.tolist() == [1.0, 1.0]
    lines = [each.line for each in client.logs("prints")]
    assert any("bytes of output were dropped: No space left on device" in line for line in lines)
    client.undeploy("prints", force=True)


def test_replicas_use_the_log_format_of_the_cluster(tmp_path):
    flags = ("--log-format", "json")
    with running_cluster(tmp_path / "c", *flags) as cluster, cluster.client() as client:
        client.deploy(slow, name="m", version="1", example=ROW)
        events = [json.loads(each.line) for each in client.logs("m")]
        assert events[-1]["event"] == "replica is ready"
        for event in events:
            assert {key: event[key] for key in ("model", "version", "replica", "service")} == {
                "model": "m", "version": "m:1", "replica": "m:1/0", "service": "model-server",
            }  # fmt: skip
        with pytest.raises(errors.DeployFailed) as caught:
            client.deploy(
                has_many_columns,
                name="n",
                version="1",
                example=ROW,
                environment={"FAILS": "1"},
            )
        # The error is plain text even with JSON logs.
        assert "the function failed on the warm-up query: KeyError: ['col" in caught.value.message
        assert "\nTraceback (most recent call last):\n" in caught.value.message

"""Features that models may use in a replica, and failure reports, with every container manager."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skysail_common.states import ReplicaState
from skysail_management.containers.base import WarmUp
from skysail_management.containers.exit_reasons import explain_start_timeout
from skysail_testing.container_managers import (
    BACKENDS,
    ManagerHarness,
    ask,
    open_harness,
    running_backend,
)


@pytest.fixture(params=["local", "docker"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ManagerHarness]:
    reason = BACKENDS[request.param].why_not()
    if reason:
        pytest.skip(reason)
    # The path is as long as that of a user with a long name.
    directory = tmp_path / ("x" * 60) / ("y" * 60) if request.param == "local" else tmp_path / "d"
    async with (
        running_backend(request.param, directory) as backend_and_server,
        open_harness(*backend_and_server) as harness,
    ):
        yield harness


def uses_multiprocessing(texts):
    import multiprocessing
    from multiprocessing.connection import Listener

    listener = Listener(family="AF_UNIX")
    listener.close()
    with multiprocessing.Manager() as manager:
        shared = manager.list(texts)
        shared.append("end")
        answered = list(shared)
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        size = pool.apply(len, (answered,))
    return [f"{text} {size}" for text in texts]


async def test_a_model_may_use_the_sockets_of_multiprocessing(harness: ManagerHarness):
    container = await harness.start_ready(harness.version(uses_multiprocessing))
    assert await ask(container, "x") == ["x 2"]


def has_many_columns(x):
    import os

    if "FAILS" in os.environ:
        raise KeyError([f"column {number:05}" for number in range(5000)])
    return x


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_long_reason_keeps_both_ends_in_any_format(harness: ManagerHarness, log_format: str):
    spec = harness.version(has_many_columns, example=[[1.0]])
    started = await harness.start(spec, environment={"FAILS": "1"}, log_format=log_format)
    failed = await harness.ended(started)
    assert failed.state is ReplicaState.FAILED
    assert failed.is_permanent
    beginning = "the function failed on the warm-up query: KeyError: ['column 00000', "
    assert beginning in failed.log_tail
    assert "'column 04999']" in failed.log_tail
    assert "\nTraceback (most recent call last):" in failed.log_tail


def is_slow(x):
    import os
    import time

    if "SLOW" in os.environ:
        print("called", flush=True)
        time.sleep(60)
    return x


async def test_log_explains_a_start_timeout(harness: ManagerHarness):
    spec = harness.version(is_slow, example=[[1.0]])
    container = await harness.start(spec, environment={"SLOW": "1"})
    for _ in range(150):
        lines = await harness.log(container)
        if "called" in lines:
            break
        await asyncio.sleep(0.1)
    found = explain_start_timeout(container, "\n".join(lines))
    assert ": warming up, call 1" in found.reason
    await harness.manager.stop(container.container_id, 5.0)
    assert (await harness.ended(container)).state is ReplicaState.STOPPED


async def test_without_a_warm_up_a_slow_model_is_ready_at_once(harness: ManagerHarness):
    spec = harness.version(is_slow, example=[[1.0]])
    cold = WarmUp(is_on=False)
    container = await harness.start_ready(spec, environment={"SLOW": "1"}, warm_up=cold)
    assert "called" not in await harness.log(container)


def keeps_the_interpreter(texts):
    import ctypes

    # PyDLL holds the interpreter during a call.
    ctypes.PyDLL(None).sleep(60)
    return texts


async def test_stuck_call_is_the_reason(harness: ManagerHarness):
    container = await harness.start_ready(harness.version(keeps_the_interpreter), stuck_after_s=0.5)
    asking = asyncio.create_task(ask(container, "x"))
    failed = await harness.ended(container)
    await asyncio.gather(asking, return_exceptions=True)
    assert failed.reason.startswith("stuck: its function did not return: no result after ")
    assert "with the interpreter held, in keeps_the_interpreter, line " in failed.reason

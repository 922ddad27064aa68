"""A model server ends itself when its function is stuck, and logs the location."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from skysail.artifact.build import build_artifact
from skysail_common.states import ExitCode
from skysail_management.containers.exit_reasons import exit_reason, explain_exit
from skysail_testing.model_servers import Results, batch_of, running_model_server


def waits(x):
    import threading

    if x.max() > 0:
        threading.Event().wait()
    return x


def keeps_the_interpreter(x):
    import ctypes

    if x.max() > 0:
        # PyDLL holds the interpreter during a call.
        ctypes.PyDLL(None).sleep(60)
    return x


async def awaits(x):
    import asyncio

    if x.max() > 0:
        await asyncio.Event().wait()
    return x


async def keeps_the_interpreter_later(x):
    import ctypes

    if x.max() > 0:
        ctypes.PyDLL(None).sleep(60)
    return x


class Checked:
    def predict(self, x):
        self.is_called = x.max() > 0
        return x

    def check_health(self):
        import threading

        if getattr(self, "is_called", False):
            threading.Event().wait()


SINGLE = {"batch": False, "max_concurrency": 2}


@pytest.mark.parametrize("name", ["grpc", "native"])
@pytest.mark.parametrize(
    ("function", "style", "status", "reason"),
    [
        (
            waits,
            {},
            ExitCode.STUCK,
            r"no result after \d s, in waits, line 4 of its code \(wait, threading\.py line \d+\)",
        ),
        # The faulthandler alone can still act, and it always exits with the same status.
        (
            keeps_the_interpreter,
            {},
            1,
            r"no result after \d s, with the interpreter held, in keeps_the_interpreter, "
            r"line \d of its code",
        ),
        # The call waits on another thread than the main thread.
        (
            waits,
            SINGLE,
            ExitCode.STUCK,
            r"no result after \d s, in waits, line 4 of its code \(wait, threading\.py line \d+\)",
        ),
        # No thread runs the call.
        (
            awaits,
            {},
            ExitCode.STUCK,
            r"no result after \d s, in awaits, line 4 of its code \(wait, locks\.py line \d+\)",
        ),
        (
            keeps_the_interpreter_later,
            {},
            1,
            r"no result after \d s, with the interpreter held, in keeps_the_interpreter_later, "
            r"line \d of its code",
        ),
        (
            Checked,
            {},
            ExitCode.STUCK,
            r"no result after \d s, in check_health, line 4 of its code "
            r"\(wait, threading\.py line \d+\)",
        ),
    ],
)
async def test_a_stuck_function_ends_its_replica(
    name, function, style, status, reason, tmp_path: Path
):
    example = np.zeros(1) if style else np.zeros((1, 1))
    artifact = build_artifact(function, example=example, **style)
    settings = {"STUCK_AFTER_S": "0.5", "CHECK_HEALTH_S": "0.2"}
    async with running_model_server(artifact, name, tmp_path, **settings) as server:
        results = Results()
        link = await server.connect(results)
        link.send(batch_of(1, 0.0))
        # A function that keeps the interpreter keeps earlier results too.
        assert (await results.next()).id == 1
        link.send(batch_of(2, 1.0))
        assert await asyncio.to_thread(server.service.wait) == status
        told = explain_exit(exit_reason(status), server.service.errors)
        assert re.fullmatch(f"stuck: its function did not return: {reason}", told), told
        link.close()

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from skysail_common.call_style import CallStyle
from skysail_common.clock import NEVER
from skysail_common.tensors import DataType, Signature, TensorSpec
from skysail_model_server.call_watchdog import CallWatchdog
from skysail_model_server.execution import Execution
from skysail_model_server.forks import close_connections, end_fork
from skysail_model_server.model import Model
from skysail_model_server.warm_up import warm_up
from skysail_protos.v1 import model_server_pb2
from skysail_testing.clock import FakeClock


def status_of_fork(work) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.fixture
def unix_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory) / "s"


@pytest.mark.parametrize("is_unix", [True, False])
def test_a_fork_closes_only_the_connections_of_the_replica(is_unix, unix_path):
    with ExitStack() as stack:
        family = socket.AF_UNIX if is_unix else socket.AF_INET
        listening = stack.enter_context(socket.socket(family))
        listening.bind(str(unix_path) if is_unix else ("127.0.0.1", 0))
        listening.listen()
        near = stack.enter_context(socket.socket(family))
        near.connect(listening.getsockname())
        far = stack.enter_context(listening.accept()[0])
        other = stack.enter_context(socket.socket(family))
        file = stack.enter_context(unix_path.with_name("f").open("wb"))
        address = f"unix:{unix_path}" if is_unix else f"0.0.0.0:{listening.getsockname()[1]}"

        def check() -> None:
            close_connections(address)
            are_open = [is_open(each.fileno()) for each in (listening, far, near, other, file)]
            os._exit(0 if are_open == [False, False, True, True, True] else 1)

        assert status_of_fork(check) == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 0),
        (SystemExit(), 0),
        (SystemExit(3), 3),
        (SystemExit("why"), 1),
        (ValueError("in a fork"), 1),
    ],
    ids=repr,
)
def test_a_fork_exits_with_the_status_of_a_script(error, status):
    assert status_of_fork(lambda: end_fork(error)) == status


def test_a_fork_in_one_call_makes_no_other_call(tmp_path):
    calls = tmp_path / "calls"

    def forks(x):
        with calls.open("a") as file:
            file.write(f"{x.shape[1]}\n")
        if x.shape[1] == 1 and os.fork():
            os.wait()
        return x

    spec = TensorSpec("x", DataType.FP32, (-1, -1))
    signature = Signature((spec,), (TensorSpec("output", DataType.FP32, (-1, -1)),))
    batch = model_server_pb2.Batch(rows=[1, 1], variable_dims=[1, 2], inputs=[bytes(12)])

    def answer() -> None:
        # This needs a separate process because fork handlers stay registered.
        execution = Execution(
            Model(forks, CallStyle(), signature), CallWatchdog(NEVER, FakeClock())
        )
        result = execution.run(batch)
        os._exit(len(result.errors))

    assert status_of_fork(answer) == 0
    assert calls.read_text().split() == ["1", "2"]


@pytest.mark.parametrize("fork_at", [1, 2, 4, 5])
@pytest.mark.parametrize("fails", [False, True])
def test_a_fork_in_the_warm_up_ends_with_its_call(fork_at, fails, tmp_path):
    callers = tmp_path / "callers"
    calls = []

    def forks(x):
        calls.append(x)
        with callers.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(calls) == fork_at:
            if os.fork():
                os.wait()
            elif fails:
                raise ValueError("in the fork")
        return x

    spec = TensorSpec("x", DataType.FP32, (-1, 1))
    signature = Signature((spec,), (TensorSpec("output", DataType.FP32, (-1, 1)),))
    model = Model(forks, CallStyle(), signature)

    def warm() -> None:
        pid = os.getpid()
        try:
            warm_up(model, [[np.zeros((1, 1), "f4")]])
        except ValueError:
            # Loading expects the error of the example itself.
            os._exit(1)
        os._exit(os.getpid() != pid)

    assert status_of_fork(warm) == 0
    assert len(set(callers.read_text().split())) == 1

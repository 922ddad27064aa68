import threading
import traceback

import pytest

import skysail
from skysail.errors import DeadlineExceeded, InvalidInput, Unavailable
from skysail.loop_thread import LoopThread


async def answer() -> int:
    return 3


@pytest.fixture
def loop():
    loop = LoopThread()
    yield loop
    loop.stop()


def test_work_has_a_result_or_an_error_of_its_own(loop):
    async def fails() -> None:
        raise TimeoutError("its own")

    assert loop.run(answer()) == 3
    assert loop.run(answer(), 10) == 3
    with pytest.raises(TimeoutError, match="its own"):
        loop.run(fails(), 10)


def test_a_blocked_loop_ends_at_the_limit(loop):
    release = threading.Event()

    async def hangs() -> None:
        release.wait(30)

    waiting = threading.Thread(target=loop.run, args=(hangs(),))
    waiting.start()
    try:
        with pytest.raises(
            DeadlineExceeded, match=r"did not answer within 0\.01 s; something blocks"
        ):
            loop.run(answer(), 0.01)
    finally:
        release.set()
        waiting.join()
    assert loop.run(answer()) == 3


def test_a_call_on_an_ended_thread_fails():
    loop = LoopThread()
    loop.stop()
    with pytest.raises(Unavailable, match="the client was closed"):
        loop.run(answer())


def test_a_traceback_shows_one_line_of_the_client():
    with pytest.raises(InvalidInput) as caught:
        skysail.Client("127.0.0.1:1").register_application("a", "no such type")
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert len([frame for frame in frames if "/skysail/" in frame.filename]) == 1

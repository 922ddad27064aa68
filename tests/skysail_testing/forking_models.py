"""Functions that fork, use signals and leave threads, deployed as a local module of the user."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

_fork = multiprocessing.get_context("fork")


def _identity(value):
    return value


def _sleep():
    time.sleep(300)


def _pool():
    with _fork.Pool(2) as pool:
        assert pool.map(_identity, range(8)) == list(range(8))


def _terminate():
    child = _fork.Process(target=_sleep)
    child.start()
    child.terminate()
    child.join(10)
    assert child.exitcode == -signal.SIGTERM, child.exitcode


def _say_and_sleep(connection):
    connection.send("awake")
    # Short sleeps, because a signal just before a long one would not interrupt it.
    for _ in range(3000):
        time.sleep(0.1)


def _interrupt():
    near, far = _fork.Pipe()
    child = _fork.Process(target=_say_and_sleep, args=[far])
    child.start()
    near.recv()
    os.kill(child.pid, signal.SIGINT)
    child.join(10)
    assert child.exitcode == 1, child.exitcode


def _executor():
    with ProcessPoolExecutor(2, mp_context=_fork) as executor:
        assert list(executor.map(_identity, range(8))) == list(range(8))


def _spawn():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert executor.submit(abs, -1).result() == 1


def _subprocess():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM


def _os_fork():
    child = os.fork()
    if child == 0:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


WAYS = {
    "pool": _pool,
    "terminate": _terminate,
    "interrupt": _interrupt,
    "executor": _executor,
    "spawn": _spawn,
    "subprocess": _subprocess,
    "os.fork": _os_fork,
    "none": lambda: None,
}


def _leaves():
    _fork.Process(target=_sleep, daemon=True).start()


def _of_a_fork(way):
    child = os.fork()
    if child == 0:
        if way == "exits":
            sys.exit(3)
        if way == "fails":
            raise ValueError("in the fork")
        # The child returns as if it were the replica.
        return
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == {"exits": 3, "fails": 1, "forgets": 0}[way], status


def by_children(ways):
    for way in ways.tolist():
        if way == "leaves":
            _leaves()
        elif way in ("exits", "fails", "forgets"):
            _of_a_fork(way)
        else:
            WAYS[way]()
    return ways


def leaves_a_thread(x):
    if (x == 7).any():
        threading.Thread(target=_sleep).start()
    return x


async def _handles_signals(numbers):
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, lambda: None)


def takes_signals(x):
    """Change the signal handlers of this process, as event loops and libraries do."""
    if (x == 7).any():
        asyncio.run(_handles_signals([signal.SIGUSR1]))
        asyncio.run(_handles_signals([signal.SIGTERM, signal.SIGINT]))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
    return x


def handles_sigterm(x):
    """Handle SIGTERM in an event loop while the signal arrives."""

    async def wait():
        came = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, came.set)
        os.kill(os.getpid(), signal.SIGTERM)
        await came.wait()

    if (x == 7).any():
        asyncio.run(wait())
    return x


spent = []


def spends_memory(x):
    """Raise `MemoryError` from the first 7 on."""
    if (x == 7).any():
        spent.append(x)
    if spent:
        raise MemoryError
    return x


def spends_memory_early(x):
    """Raise `MemoryError` from the first large batch on, as of the warm-up."""
    if len(x) > 30:
        spent.append(x)
    if spent:
        raise MemoryError
    return x

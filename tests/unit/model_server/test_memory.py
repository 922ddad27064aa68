import resource
import subprocess
import sys

import pytest

from skysail_model_server import memory


@pytest.mark.parametrize(
    ("limit", "advice"),
    [
        (resource.RLIM_INFINITY, ""),
        (400 << 20, "; the limit of the replica is 400 MiB, raise memory_mib if it needs more"),
    ],
)
def test_a_lack_of_memory_names_the_limit(monkeypatch, limit, advice):
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (limit, limit))
    assert memory.memory_advice() == advice
    assert memory.out_of_memory(3).message == (
        "cannot answer queries: the function ran out of memory in 3 batches in a row, and in its "
        f"example{advice}"
    )


def test_the_limit_applies_and_0_sets_none():
    program = (
        "from skysail_model_server.memory import limit_memory, memory_advice\n"
        "limit_memory(0); print(memory_advice())\n"
        "limit_memory(200); print(memory_advice())\n"
        "try: bytearray(300 << 20)\n"
        "except MemoryError: print('no memory')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=30, check=True, text=True
    )
    without, limited, failed = done.stdout.splitlines()
    assert "200 MiB" in limited
    assert without != limited
    assert failed == "no memory"

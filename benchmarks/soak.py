"""`make soak`: a million queries through a cluster, to find leaks of memory and descriptors."""

import argparse
import sys
from collections.abc import Sequence

import psutil

from benchmarks import load_tool, systems

NUM_QUERIES = 1_000_000
MAX_GROWN_BYTES = 5_000_000
_WARM_UP = 0.1
_CALLERS = 64
_CHUNK_S = 10.0
_MODEL = "noop"


def main(arguments: Sequence[str]) -> int:
    """Return 1 if a process has grown or has more descriptors, or if a query failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--queries", type=int, default=NUM_QUERIES)
    parser.add_argument("--transport", default="native", choices=("native", "grpc"))
    options = parser.parse_args(arguments)
    load_tool.build()
    with systems.skysail_system(options.transport) as system:
        _ask(system, round(_WARM_UP * options.queries))
        processes = {
            f"{part} {pid}": psutil.Process(pid)
            for part, pids in system.parts().items()
            for pid in pids
        }
        before = {part: _held(process) for part, process in processes.items()}
        num_failed = _ask(system, options.queries)
        after = {part: _held(process) for part, process in processes.items()}
    has_grown = False
    print(f"{options.queries} queries on {options.transport}, {num_failed} failed")
    for part, (rss, num_files) in after.items():
        grown, more_files = rss - before[part][0], num_files - before[part][1]
        has_grown = has_grown or grown >= MAX_GROWN_BYTES or more_files > 0
        print(f"{part}: {grown / 1e6:+.2f} MB to {rss / 1e6:.0f} MB, {more_files:+d} descriptors")
    return int(has_grown or num_failed > 0)


def _held(process: psutil.Process) -> tuple[int, int]:
    return process.memory_info().rss, process.num_fds()


def _ask(system: systems.System, number: int) -> int:
    """Send at least this number of queries and return how many failed."""
    num_asked = num_failed = 0
    while num_asked < number:
        load = system.load("grpc", _MODEL, "closed", _CHUNK_S, callers=_CALLERS)
        codes = load_tool.run(load, system.parts)["codes"]
        num_asked += sum(codes.values())
        num_failed += sum(count for code, count in codes.items() if code != "0")
    return num_failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

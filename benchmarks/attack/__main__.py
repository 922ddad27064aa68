"""`make attack`: fuzzers against a cluster that serves honest callers at the same time.

Every honest answer is checked. The run fails if the event loop of the frontend stalls, if memory or
descriptors grow, if an honest caller gets a wrong answer or none, or if a case ends in an untyped
error. Time that other processes take from the frontend is subtracted from stalls.
"""

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.attack.cluster import AttackedCluster, attacked_cluster
from benchmarks.attack.processes import FUZZERS, HONEST, Crew, ask, fuzz, make_case, watch
from benchmarks.attack.sending import Sender
from benchmarks.attack.verdict import Findings, Held, Limits
from benchmarks.attack.watching import Watched

_ALONE_S = 5.0
"""Duration of honest traffic without an attack, for comparison."""
_PAUSE_S = 3.0
"""Time for the last answers before memory is measured."""
_LINE_EVERY_S = 10.0
_LOOK_EVERY_S = 0.5
_SHOWN_MISTAKES = 10
_NUMBER = re.compile(r"0x[0-9a-f]+|[0-9]+")


def main(arguments: Sequence[str]) -> int:
    """Return 1 if a limit was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fuzzers", default=",".join(FUZZERS))
    parser.add_argument("--case", default="", help="send one case only, such as protobuf/123")
    options = parser.parse_args(arguments)
    if options.case:
        return _send_one(options.case, options.seed)
    findings = Findings()
    with attacked_cluster() as cluster:
        _attack(cluster, findings, options.fuzzers.split(","), options.seed, 60 * options.minutes)
    print("\n".join(findings.table()))
    reasons = findings.reasons(Limits())
    print("\n".join(["", *(reasons or ["no limit was broken"])]))
    return int(bool(reasons))


def _send_one(case: str, seed: int) -> int:
    fuzzer, _, number = case.partition("/")
    made = make_case(fuzzer, seed, int(number))
    with attacked_cluster() as cluster, Sender(cluster.endpoints) as sender:
        frontend = Watched(cluster.pids()["frontend"])
        before_s, before_bytes = frontend.cpu_s(), frontend.rss_bytes()
        outcome = made.send(sender)
        print(
            f"{made.label}: {outcome}; {1e3 * (frontend.cpu_s() - before_s):.1f} ms of processor "
            f"time, {(frontend.rss_bytes() - before_bytes) / 1e6:+.1f} MB"
        )
        _print_mistakes(cluster.log_file)
    return int(outcome not in made.answers)


def _attack(
    cluster: AttackedCluster, findings: Findings, fuzzers: Sequence[str], seed: int, seconds: float
) -> None:
    pids = cluster.pids()
    frontend = Watched(pids["frontend"])
    crew = Crew()

    def hold(when: str) -> None:
        for name, pid in cluster.pids().items():
            process = Watched(pid)
            held = Held(when, process.rss_bytes(), process.num_files())
            findings.held.setdefault(name, []).append(held)

    def run(duration_s: float) -> None:
        end = time.monotonic() + duration_s
        line = time.monotonic() + _LINE_EVERY_S
        while (now := time.monotonic()) < end:
            time.sleep(min(_LOOK_EVERY_S, end - now))
            findings.add(crew.reports())
            if now > line:
                print(findings.line(now - begin, frontend.rss_bytes()), flush=True)
                line += _LINE_EVERY_S

    hold("at the start")
    try:
        for module in HONEST:
            crew.start(ask, module, seed, cluster.endpoints)
        crew.start(watch, cluster.endpoints, frontend.pid)
        for fuzzer in fuzzers:
            crew.start(fuzz, fuzzer, seed, cluster.endpoints)
        begin = time.monotonic()
        run(_ALONE_S)
        print("\n".join(["without an attack:", *findings.table()]), flush=True)
        hold("honest callers only")
        for part, when in ((0.25, "after a quarter"), (0.75, "at the end")):
            crew.signals.go.set()
            run(part * seconds)
            crew.signals.go.clear()
            run(_PAUSE_S)
            hold(when)
    except (ChildProcessError, psutil.NoSuchProcess, KeyboardInterrupt) as error:
        findings.broken.append(f"the attack ended early: {error!r}")
    finally:
        findings.add(crew.stop())
    if cluster.pids() != pids:
        findings.broken.append(f"processes were replaced: {pids} became {cluster.pids()}")
    if num_mistakes := _print_mistakes(cluster.log_file):
        findings.broken.append(f"{num_mistakes} internal errors in the log")


def _print_mistakes(log_file: Path) -> int:
    """Print the internal errors in the log, each kind once, and return their number."""
    kinds: Counter[str] = Counter()
    is_traceback = False
    for line in log_file.read_text(errors="replace").splitlines():
        if is_traceback and not line.startswith((" ", "Traceback")):
            kinds[_NUMBER.sub("#", line)] += bool(line)
            is_traceback = False
        is_traceback = is_traceback or line.startswith("Traceback")
        if "internal error" in line:
            kinds[_NUMBER.sub("#", line)] += 1
    for kind, count in kinds.most_common(_SHOWN_MISTAKES):
        print(f"{count} x in the log: {kind[:300]}")
    return kinds.total()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

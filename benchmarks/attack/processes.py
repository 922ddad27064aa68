"""The processes of an attack: fuzzers, callers and the probe, which report every second."""

import importlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from benchmarks.attack import cases
from benchmarks.attack.cluster import Endpoints
from benchmarks.attack.sending import Sender
from benchmarks.attack.watching import PROBE_EVERY_S, Probe

FUZZERS = ("ladder", "protobuf", "json_bodies", "http_bytes", "http2_frames")
"""Modules of this package with a function `case`."""
HONEST = ("honest", "honest_triton")
"""Modules of this package with a function `doors`."""

_NICE = 19
_REPORT_EVERY_S = 1.0
_NOTEWORTHY_S = 0.02
_MAX_ODD = 20
"""Most unexpected outcomes of one fuzzer that are shown; all are counted."""
_ASKS_PER_S = 20.0
"""Questions per second of one honest caller."""
_END_TIMEOUT_S = 60.0


@dataclass
class Report:
    """The observations of one process in the last second."""

    source: str
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of cases by source and outcome."""
    odd: list[str] = field(default_factory=list)
    """Cases with unexpected outcomes, each with the name by which `--case` repeats it."""
    times_s: list[tuple[str, float]] = field(default_factory=list)
    """Door and latency of each honest question."""
    problems: list[str] = field(default_factory=list)
    """Questions with a wrong answer or none."""
    stalls: list[tuple[float, float, float]] = field(default_factory=list)
    """End, duration, and duration with the time of other processes, of each stall."""
    slow: list[tuple[float, float, str]] = field(default_factory=list)
    """Begin, end and label of each slow case."""


@dataclass(frozen=True)
class Signals:
    """The signals from the parent to its processes."""

    go: Event
    """Set while fuzzers send."""
    stop: Event
    """Set to end all processes."""


class Crew:
    """The processes of an attack, with their reports."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self.signals = Signals(self._context.Event(), self._context.Event())
        self._processes: list[tuple[Any, Connection]] = []

    def start(self, target: Callable[..., None], *arguments: Any) -> None:
        """Start a process that calls a function with a pipe, the signals and the arguments."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_run, args=(target, sender, self.signals, *arguments), daemon=True
        )
        process.start()
        sender.close()
        self._processes.append((process, receiver))

    def reports(self) -> list[Report]:
        """Return the reports since the last call.

        Raises:
            ChildProcessError: a process ended unexpectedly.
        """
        found: list[Report] = []
        for process, receiver in self._processes:
            try:
                while receiver.poll():
                    found.append(receiver.recv())
            except EOFError:
                if not self.signals.stop.is_set():
                    raise ChildProcessError(f"{process.name} ended unexpectedly") from None
        return found

    def stop(self) -> list[Report]:
        """End all processes and return their last reports."""
        self.signals.stop.set()
        last: list[Report] = []
        end = time.monotonic() + _END_TIMEOUT_S
        while any(process.is_alive() for process, _ in self._processes):
            # A process cannot end while its pipe is full.
            last += self.reports()
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        last += self.reports()
        for process, receiver in self._processes:
            process.kill()
            process.join()
            receiver.close()
        return last


def _run(target: Callable[..., None], pipe: Connection, *arguments: Any) -> None:
    # The parent handles interrupts, and ends the other processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target(pipe, *arguments)


def make_case(fuzzer: str, seed: int, number: int) -> cases.Case:
    """Return a case of a fuzzer by its number."""
    make: cases.Make = importlib.import_module(f"benchmarks.attack.{fuzzer}").case
    return make(random.Random(f"{seed}/{fuzzer}/{number}"))


def fuzz(pipe: Connection, signals: Signals, fuzzer: str, seed: int, endpoints: Endpoints) -> None:
    """Send the cases of a fuzzer one after the other."""
    os.nice(_NICE)
    report = Report(fuzzer)
    due = time.monotonic() + _REPORT_EVERY_S
    number = num_odd = 0
    with Sender(endpoints) as sender:
        while not signals.stop.is_set():
            if signals.go.wait(0.1):
                case = make_case(fuzzer, seed, number)
                begin = time.monotonic()
                outcome = case.send(sender)
                end = time.monotonic()
                report.outcomes[fuzzer, outcome] += 1
                if outcome not in case.answers:
                    report.outcomes[fuzzer, "odd"] += 1
                    num_odd += 1
                    if num_odd <= _MAX_ODD:
                        report.odd.append(f"{fuzzer}/{number}: {case.label}: {outcome}")
                if end - begin > _NOTEWORTHY_S:
                    report.slow.append((begin, end, f"{fuzzer}/{number}: {case.label}"))
                number += 1
            if time.monotonic() > due:
                pipe.send(report)
                report, due = Report(fuzzer), time.monotonic() + _REPORT_EVERY_S
    pipe.send(report)


def ask(pipe: Connection, signals: Signals, module: str, seed: int, endpoints: Endpoints) -> None:
    """Send questions through every door of a module at a steady rate."""
    doors = importlib.import_module(f"benchmarks.attack.{module}").doors(endpoints)
    lock = threading.Lock()
    reports = [Report(module)]

    def ask_on(door: str, ask_one: Callable[[random.Random], None]) -> None:
        rng = random.Random(f"{seed}/{door}")
        while not signals.stop.is_set():
            begin = time.monotonic()
            problem = ""
            try:
                ask_one(rng)
            except Exception as error:
                # Every exception of a client is a finding.
                problem = f"{door}: {type(error).__name__}: {str(error)[:500]}"
            taken_s = time.monotonic() - begin
            with lock:
                reports[0].times_s.append((door, taken_s))
                if problem:
                    reports[0].problems.append(problem)
            time.sleep(max(0.0, rng.expovariate(_ASKS_PER_S) - taken_s))

    threads = [threading.Thread(target=ask_on, args=each, daemon=True) for each in doors.items()]
    for thread in threads:
        thread.start()
    while not signals.stop.wait(_REPORT_EVERY_S):
        with lock:
            report, reports[0] = reports[0], Report(module)
        pipe.send(report)
    for thread in threads:
        thread.join(_END_TIMEOUT_S)
    pipe.send(reports[0])
    # Open streams would keep the interpreter from ending.
    pipe.close()
    os._exit(0)


def watch(pipe: Connection, signals: Signals, endpoints: Endpoints, pid: int) -> None:
    """Probe the event loop of the frontend."""
    report = Report("probe")
    due = time.monotonic() + _REPORT_EVERY_S
    probe = Probe(endpoints.http, pid)
    while not signals.stop.wait(PROBE_EVERY_S):
        try:
            stall_s, wait_s = probe.stall_s()
        except OSError as error:
            report.problems.append(f"probe: {error}")
            continue
        now = time.monotonic()
        report.outcomes["probe", "200"] += 1
        if stall_s > _NOTEWORTHY_S:
            report.stalls.append((now, stall_s, wait_s))
        if now > due:
            pipe.send(report)
            report, due = Report("probe"), now + _REPORT_EVERY_S
    probe.close()
    pipe.send(report)

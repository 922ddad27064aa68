"""The findings of an attack: sums of the reports, their table, and the exceeded limits."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks.attack.processes import Report

MIB = 1 << 20
_SHOWN = 10


@dataclass(frozen=True)
class Limits:
    """The limits for the effects of an attack on a frontend."""

    stall_s: float = 0.05
    """Longest stall of the event loop, without the time of other processes."""
    grown_bytes: int = 64 * MIB
    """Largest growth of memory between the pause after the first quarter and the end: the allocator
    may keep one of the largest messages."""
    more_files: int = 5
    """Largest growth of descriptors in the same time."""


@dataclass(frozen=True)
class Held:
    """The memory and descriptors of a process at an instant."""

    when: str
    rss_bytes: int
    num_files: int


@dataclass
class Findings:
    """The findings of all processes."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)
    times_s: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    stalls: list[tuple[float, float, float]] = field(default_factory=list)
    slow: list[tuple[float, float, str]] = field(default_factory=list)
    held: dict[str, list[Held]] = field(default_factory=dict)
    """Memory and descriptors by process, at several instants."""
    broken: list[str] = field(default_factory=list)
    """Limits that were exceeded during the run."""

    def add(self, reports: Iterable[Report]) -> None:
        """Add the reports of processes."""
        for report in reports:
            self.outcomes.update(report.outcomes)
            self.odd += report.odd
            self.problems += report.problems
            self.stalls += report.stalls
            self.slow += report.slow
            for door, taken_s in report.times_s:
                self.times_s.setdefault(door, []).append(taken_s)

    @property
    def num_odd(self) -> int:
        """Number of cases with unexpected outcomes."""
        return sum(count for (_, outcome), count in self.outcomes.items() if outcome == "odd")

    @property
    def longest_stall_s(self) -> float:
        """Longest stall of the event loop."""
        return max((stall_s for _, stall_s, _ in self.stalls), default=0.0)

    def line(self, elapsed_s: float, rss_bytes: int) -> str:
        """Return a progress line."""
        num_cases = sum(
            count for (source, outcome), count in self.outcomes.items()
            if source != "probe" and outcome != "odd"
        )  # fmt: skip
        return (
            f"{elapsed_s:5.0f} s: {num_cases} cases, {self.num_odd} odd; "
            f"{sum(map(len, self.times_s.values()))} questions, {len(self.problems)} problems; "
            f"longest stall {1e3 * self.longest_stall_s:.0f} ms, RSS {rss_bytes / MIB:.0f} MiB"
        )

    def table(self) -> list[str]:
        """Return the lines of the result table."""
        lines = ["", f"{'cases':<14} {'outcome':<22} {'number':>9}"]
        for (source, outcome), count in sorted(self.outcomes.items()):
            lines.append(f"{source:<14} {outcome:<22} {count:>9}")
        lines += ["", f"{'honest':<22} {'number':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}"]
        for door, times_s in sorted(self.times_s.items()):
            ordered = sorted(times_s)
            p50, p99 = (ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99))
            lines.append(
                f"{door:<22} {len(ordered):>8} {1e3 * p50:>8.1f} {1e3 * p99:>8.1f} "
                f"{1e3 * ordered[-1]:>8.1f}"
            )
        lines += ["", f"{'process':<20} {'when':<20} {'RSS MiB':>8} {'files':>6}"]
        for process, all_held in self.held.items():
            lines += [
                f"{process:<20} {held.when:<20} {held.rss_bytes / MIB:>8.0f} {held.num_files:>6}"
                for held in all_held
            ]
        return [*lines, "", *self._stall_lines()]

    def _stall_lines(self) -> list[str]:
        lines = [f"longest stall of the frontend's event loop: {1e3 * self.longest_stall_s:.0f} ms"]
        for end, stall_s, wait_s in sorted(self.stalls, key=lambda each: -each[1])[:_SHOWN]:
            beside = sorted(
                (begin - sent, label)
                for begin, sent, label in self.slow
                if begin < end and sent > end - wait_s
            )
            lines.append(
                f"  {1e3 * stall_s:.0f} ms (a wait of {1e3 * wait_s:.0f} ms) beside "
                f"{'; '.join(label for _, label in beside[:3]) or 'none'}"
            )
        return lines

    def reasons(self, limits: Limits) -> list[str]:
        """Return the exceeded limits."""
        reasons = list(self.broken)
        stalls = [stall_s for _, stall_s, _ in self.stalls if stall_s > limits.stall_s]
        if stalls:
            reasons.append(
                f"{len(stalls)} stalls are longer than {1e3 * limits.stall_s:.0f} ms; the longest "
                f"is {1e3 * max(stalls):.0f} ms"
            )
        if self.num_odd:
            reasons.append(f"{self.num_odd} cases ended in an unexpected way")
            reasons += [f"  {each}" for each in self.odd]
        if self.problems:
            reasons.append(f"{len(self.problems)} honest questions had a wrong answer or none")
            reasons += [f"  {each}" for each in self.problems[:_SHOWN]]
        for process, (*_, settled, end) in self.held.items():
            reasons += _grown(process, settled, end, limits)
        return reasons


def _grown(process: str, settled: Held, end: Held, limits: Limits) -> Iterator[str]:
    grown, more_files = end.rss_bytes - settled.rss_bytes, end.num_files - settled.num_files
    if grown > limits.grown_bytes:
        yield f"{process} has grown by {grown / MIB:.0f} MiB"
    if more_files > limits.more_files:
        yield f"{process} has {more_files} more descriptors"

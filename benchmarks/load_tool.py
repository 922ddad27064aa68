"""Builds and runs the compiled load tool in `benchmarks/load`."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
_TARGET = ROOT / ".cache" / "load"
_SLACK_S = 60.0


class LoadFailed(Exception):
    """The load tool could not be built or did not end well."""


@dataclass(frozen=True)
class Load:
    """What to send, and how."""

    mode: str
    """`closed`, `open` or `stream`."""
    address: str
    path: str
    messages: Sequence[bytes]
    """Requests, sent in turn."""
    seconds: float
    callers: int = 1
    connections: int = 4
    rate: float = 0.0
    """Requests a second of an open loop."""
    timeout_ms: int = 10_000
    slo_ms: float = 50.0
    seed: int = 1


def build() -> Path:
    """Compile the load tool, if need be, and return its path.

    Raises:
        LoadFailed: there is no Rust here, or it does not compile.
    """
    command = ["cargo", "build", "--release", "--quiet", "--target-dir", str(_TARGET)]
    try:
        subprocess.run(command, cwd=ROOT / "benchmarks" / "load", check=True, timeout=900)
    except FileNotFoundError as error:
        raise LoadFailed("cargo is not installed: the load tool is a Rust program") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LoadFailed(f"the load tool does not compile: {error}") from error
    return _TARGET / "release" / "skysail-load"


Parts = Callable[[], Mapping[str, Sequence[int]]]
"""Tells which processes are the server's, by what part of it they are."""


def run(load: Load, parts: Parts) -> dict[str, Any]:
    """Return what the tool reports, and what it took of this machine.

    Beside the tool's own: `parts_us`, processor time a request by part of the server, their sum
    `server_cpu_us`, and `stolen`, the part of the machine's time that others had.

    Args:
        load: What to send.
        parts: Tells which processes are the server's.

    Raises:
        LoadFailed: the tool failed or did not end.
    """
    with tempfile.NamedTemporaryFile(suffix=".messages") as file:
        for message in load.messages:
            file.write(len(message).to_bytes(4, "little") + message)
        file.flush()
        flags = {
            "mode": load.mode, "address": load.address, "path": load.path, "messages": file.name,
            "seconds": load.seconds, "callers": load.callers, "rate": load.rate,
            "connections": max(1, min(load.connections, load.callers or load.connections)),
            "timeout-ms": load.timeout_ms, "slo-ms": load.slo_ms, "seed": load.seed,
        }  # fmt: skip
        if load.mode == "open":
            flags["connections"] = load.connections
        command = [str(_TARGET / "release" / "skysail-load")]
        command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            assert process.stdout is not None
            marks: list[tuple[dict[str, float], float, float]] = []
            others: list[str] = []
            for line in process.stderr:
                if line.strip() in ("begin", "end"):
                    times = psutil.cpu_times()
                    taken = {part: _cpu_s(pids) for part, pids in parts().items()}
                    marks.append((taken, times.steal, sum(times)))
                else:
                    others.append(line)
            output = process.stdout.read()
            if process.wait(_SLACK_S) != 0 or len(marks) != 2:
                raise LoadFailed(f"the load tool failed: {''.join(others)[-500:]}")
        finally:
            process.kill()
            process.wait()
    report: dict[str, Any] = json.loads(output)
    num_requests = max(1, sum(report["codes"].values()))
    (before, stolen_before, all_before), (after, stolen_after, all_after) = marks
    report["parts_us"] = {
        part: 1e6 * (taken - before.get(part, 0.0)) / num_requests for part, taken in after.items()
    }
    report["server_cpu_us"] = sum(report["parts_us"].values())
    report["stolen"] = (stolen_after - stolen_before) / max(1e-9, all_after - all_before)
    return report


def _cpu_s(pids: Sequence[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]

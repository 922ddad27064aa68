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
    """The load tool was not built or gave no result; the text has the reason."""


class ServerDied(LoadFailed):
    """A process of the server ended during a measurement."""


@dataclass(frozen=True)
class Load:
    """The load: what to send, where and how fast."""

    mode: str
    """`closed`, `open` or `stream`."""
    address: str
    path: str
    messages: Sequence[bytes]
    """Requests, sent one after the other and again from the beginning."""
    seconds: float
    callers: int = 1
    connections: int = 4
    rate: float = 0.0
    """Requests per second of an open loop."""
    timeout_ms: int = 10_000
    slo_ms: float = 50.0
    seed: int = 1
    protocol: str = "grpc"
    """`grpc` or `http`."""
    timeout_header: str = ""
    """HTTP header for the timeout in milliseconds; empty for none."""


def build() -> Path:
    """Compile the load tool if it has changed, and return its path.

    Raises:
        LoadFailed: cargo is not installed, or the tool does not compile.
    """
    command = ["cargo", "build", "--locked", "--release", "--quiet", "--target-dir", str(_TARGET)]
    try:
        subprocess.run(command, cwd=ROOT / "benchmarks" / "load", check=True, timeout=900)
    except FileNotFoundError as error:
        raise LoadFailed("cargo is not installed: the load tool is a Rust program") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LoadFailed(f"the load tool does not compile: {error}") from error
    return _TARGET / "release" / "skysail-load"


Parts = Callable[[], Mapping[str, Sequence[int]]]
"""Returns the process ids of the server, by part of the server."""


def run(load: Load, parts: Parts) -> dict[str, Any]:
    """Run the load tool and return its report, with the processor time of the server.

    The additional fields are `parts_us`, the processor time per request by part of the server; its
    sum `server_cpu_us`; and `stolen`, the share of stolen time of this machine.

    Args:
        load: The load.
        parts: Returns the processes of the server.

    Raises:
        ServerDied: a process of the server ended during the run.
        LoadFailed: the tool gave no result.
    """
    pids = {pid for each in parts().values() for pid in each}
    with tempfile.NamedTemporaryFile(suffix=".messages") as file:
        for message in load.messages:
            file.write(len(message).to_bytes(4, "little") + message)
        file.flush()
        flags = {
            "mode": load.mode, "address": load.address, "path": load.path, "messages": file.name,
            "seconds": load.seconds, "callers": load.callers, "rate": load.rate,
            "connections": max(1, min(load.connections, load.callers or load.connections)),
            "timeout-ms": load.timeout_ms, "slo-ms": load.slo_ms, "seed": load.seed,
            "protocol": load.protocol, "timeout-header": load.timeout_header,
        }  # fmt: skip
        if load.mode == "open":
            flags["connections"] = load.connections
        command = [str(_TARGET / "release" / "skysail-load")]
        command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                marks, others, output = _watched(process, parts)
                status = process.wait(_SLACK_S)
            except subprocess.TimeoutExpired as error:
                raise LoadFailed(f"the load tool did not end within {_SLACK_S:g} s") from error
            finally:
                process.kill()
    if ended := {pid for pid in pids if not _is_running(pid)}:
        raise ServerDied(f"{len(ended)} of {len(pids)} processes of the server ended")
    if status != 0 or len(marks) != 2:
        raise LoadFailed(others[-500:].strip() or f"the load tool ended with status {status}")
    report: dict[str, Any] = json.loads(output)
    num_requests = max(1, sum(report["codes"].values()))
    (before, stolen_before, all_before), (after, stolen_after, all_after) = marks
    report["parts_us"] = {
        part: 1e6 * (taken - before.get(part, 0.0)) / num_requests for part, taken in after.items()
    }
    report["server_cpu_us"] = sum(report["parts_us"].values())
    report["stolen"] = (stolen_after - stolen_before) / max(1e-9, all_after - all_before)
    return report


_Mark = tuple[dict[str, float], float, float]
"""Processor time of each part of the server, stolen time and total time of this machine."""


def _watched(process: "subprocess.Popen[str]", parts: Parts) -> tuple[list[_Mark], str, str]:
    """Return the times at begin and end of the run, and both outputs of the tool."""
    assert process.stderr is not None
    assert process.stdout is not None
    marks: list[_Mark] = []
    others: list[str] = []
    for line in process.stderr:
        if line.strip() in ("begin", "end"):
            times = psutil.cpu_times()
            taken = {part: _cpu_s(pids) for part, pids in parts().items()}
            marks.append((taken, times.steal, sum(times)))
        else:
            others.append(line)
    return marks, "".join(others), process.stdout.read()


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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
    """Return a process and all of its descendants."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]

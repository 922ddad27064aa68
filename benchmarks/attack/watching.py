"""The resources of a frontend and the stalls of its event loop, measured from outside."""

import socket
import time
from pathlib import Path

import psutil

PROBE_EVERY_S = 0.005
_PROBE_TIMEOUT_S = 30.0
_ANSWER_END = b"}"
_PROBE = b"GET /v2/health/live HTTP/1.1\r\nHost: attack\r\n\r\n"
_NANO = 1e-9


class Watched:
    """The resources of a running process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    def cpu_s(self) -> float:
        """Return the processor time of all its threads until now."""
        # The number of the clock of another process is that of clock_getcpuclockid(3).
        return time.clock_gettime(~self.pid << 3 | 2)

    def starved_s(self) -> float:
        """Return how long its threads were ready to run without a processor."""
        return starved_s(self.pid)

    def rss_bytes(self) -> int:
        """Return its resident memory."""
        return int(self._process.memory_info().rss)

    def forget_peak(self) -> None:
        """Reset the peak of memory."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """Return the peak of memory since `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def num_files(self) -> int:
        """Return the number of its descriptors."""
        return int(self._process.num_fds())


def starved_s(pid: int) -> float:
    """Return how long the threads of a process were ready to run without a processor."""
    waited_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            waited_ns += int((task / "schedstat").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            # The thread has ended.
            continue
    return waited_ns * _NANO


def stolen_s() -> float:
    """Return the stolen time of this machine, averaged over its processors."""
    times = psutil.cpu_times()
    return float(getattr(times, "steal", 0.0)) / (psutil.cpu_count() or 1)


class Probe:
    """A probe of the health of a frontend, which its event loop answers between two turns."""

    def __init__(self, endpoint: str, pid: int) -> None:
        """Connects at the first probe.

        Args:
            endpoint: HTTP endpoint of the frontend.
            pid: Process id of the frontend.
        """
        self._endpoint = endpoint
        self._pids = (pid, psutil.Process().pid)
        self._connection: socket.socket | None = None

    def stall_s(self) -> tuple[float, float]:
        """Return the latency of a probe, without and with the time of other processes.

        Without an answer in time, the latency is the time waited.

        Raises:
            OSError: the connection broke.
        """
        connection = self._connection or self._connected()
        before = self._others_s()
        begin = time.monotonic()
        try:
            connection.sendall(_PROBE)
            answer = b""
            while not answer.endswith(_ANSWER_END):
                part = connection.recv(1 << 16)
                if not part:
                    raise ConnectionError("the frontend closed the connection of the probe")
                answer += part
        except OSError as error:
            connection.close()
            self._connection = None
            if not isinstance(error, TimeoutError):
                raise
        wait_s = time.monotonic() - begin
        return max(0.0, wait_s - (self._others_s() - before)), wait_s

    def _connected(self) -> socket.socket:
        host, _, port = self._endpoint.rpartition(":")
        self._connection = socket.create_connection((host, int(port)), _PROBE_TIMEOUT_S)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._connection

    def _others_s(self) -> float:
        return stolen_s() + sum(map(starved_s, self._pids))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

"""What a frontend takes and holds, seen from outside, and how long its event loop stands still."""

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
    """A process that runs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    def cpu_s(self) -> float:
        """Return the processor time of all its threads until now."""
        # The clock of another process, as clock_getcpuclockid(3) makes its number.
        return time.clock_gettime(~self.pid << 3 | 2)

    def starved_s(self) -> float:
        """Return how long its threads were ready to run and had no processor."""
        return starved_s(self.pid)

    def rss_bytes(self) -> int:
        """Return the memory that it holds."""
        return int(self._process.memory_info().rss)

    def forget_peak(self) -> None:
        """Begin to look for the peak of memory from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """Return the most memory that it held since `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def num_files(self) -> int:
        """Return the number of its descriptors."""
        return int(self._process.num_fds())


def starved_s(pid: int) -> float:
    """Return how long the threads of a process were ready to run and had no processor."""
    waited_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            waited_ns += int((task / "schedstat").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            # The thread has ended.
            continue
    return waited_ns * _NANO


def stolen_s() -> float:
    """Return how long the host kept the processors of this machine, on average of them."""
    times = psutil.cpu_times()
    return float(getattr(times, "steal", 0.0)) / (psutil.cpu_count() or 1)


class Probe:
    """Asks for the health of a frontend, which its event loop answers between two turns."""

    def __init__(self, endpoint: str, pid: int) -> None:
        """A probe that is not connected yet.

        Args:
            endpoint: HTTP door of the frontend.
            pid: Its process.
        """
        self._endpoint = endpoint
        self._pids = (pid, psutil.Process().pid)
        self._connection: socket.socket | None = None

    def stall_s(self) -> tuple[float, float]:
        """Return how long the loop let a question wait, without and with what others took.

        A probe without an answer in time returns what it waited.

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

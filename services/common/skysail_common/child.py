"""A service as a child process: started, known to be ready, started again when it dies."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from skysail_common.back_off import BackOff
from skysail_common.errors import SkysailError
from skysail_common.rpc.serving import parse_ready_line

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0
_OUTPUT_LIMIT_BYTES = 1024 * 1024
_OUTPUT_CHUNK_BYTES = 64 * 1024


class StartFailed(SkysailError):
    """A service ended, or took too long, before it was ready."""


class Child:
    """One child process.

    It leads a session of its own, so that Ctrl-C reaches only the supervisor, and it holds one end
    of a pipe as its standard input, so that it notices the death of the supervisor.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[Mapping[str, str]], Sequence[str]],
        environment: Mapping[str, str],
        start_timeout_s: float = 30.0,
    ) -> None:
        """A process that is not started yet.

        Args:
            name: Its name, for people.
            command: Returns the command line; is given what the first run bound, so that a later
                one binds the same (empty for the first).
            environment: Its environment.
            start_timeout_s: Longest time until its ready line.
        """
        self.name = name
        self.bound: dict[str, str] = {}
        self._command = command
        self._environment = dict(environment)
        self._start_timeout_s = start_timeout_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the present run; 0 before the first."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process and return once it is ready.

        Raises:
            StartFailed: it ended or took too long; what it wrote is on standard error.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command(self.bound),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
            limit=_OUTPUT_LIMIT_BYTES,
        )
        self._process = process
        assert process.stdout is not None
        reading = asyncio.ensure_future(_ready_line(process.stdout))
        try:
            # No wait_for: before Python 3.12 it loses a cancellation that comes along with its
            # result.
            await asyncio.wait({reading}, timeout=self._start_timeout_s)
            if not reading.done():
                await self._kill()
                raise StartFailed(f"{self.name} was not ready within {self._start_timeout_s:g} s")
            bound = reading.result()
        finally:
            reading.cancel()
        if bound is None:
            status = await process.wait()
            raise StartFailed(f"{self.name} ended before it was ready (exit status {status})")
        self.bound = bound

    async def keep_running(self) -> None:
        """Start the process again whenever it ends, until this is cancelled."""
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            assert self._process is not None
            await self._drain_output()
            status = await self._process.wait()
            log.warning("service ended; starting it again", extra=self._facts(status))
            while True:
                try:
                    await self.start()
                except (SkysailError, OSError) as error:
                    facts = {"service_name": self.name, "error": str(error)}
                    log.error("service does not start", extra=facts)
                    await asyncio.sleep(back_off.next_s())
                else:
                    back_off.reset()
                    log.info("service is ready again", extra={"service_name": self.name})
                    break

    def _facts(self, status: int) -> dict[str, object]:
        return {"service_name": self.name, "pid": self.pid, "exit_status": status}

    async def _drain_output(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        # Not by lines: one may be longer than the reader allows.
        while output := await self._process.stdout.read(_OUTPUT_CHUNK_BYTES):
            sys.stderr.buffer.write(output)
            sys.stderr.flush()

    async def stop(self, timeout_s: float) -> None:
        """Tell the process to stop and return when it is gone; kill it after `timeout_s`.

        Called when nothing keeps it running any more.
        """
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except asyncio.TimeoutError:
            log.warning("service did not stop in time", extra={"service_name": self.name})
            await self._kill()

    async def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()


async def _ready_line(output: asyncio.StreamReader) -> dict[str, str] | None:
    while line := await output.readline():
        bound = parse_ready_line(line.decode(errors="replace"))
        if bound is not None:
            return bound
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
    return None


def python_module(module: str, *flags: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *flags]

"""Supervision of a service as a child process: start, readiness, restart after a crash or hang."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from skysail_common.clock import MONOTONIC, Clock
from skysail_common.errors import SkysailError
from skysail_common.process.backoff import BackOff
from skysail_common.process.ready_line import read_ready_line
from skysail_common.process.watchdog import wait_for_silence

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0
_STEADY_S = 10.0
"""A child that ends sooner after it was ready restarts after a backoff, because it may end each time."""
_OUTPUT_LIMIT_BYTES = 1024 * 1024
_OUTPUT_CHUNK_BYTES = 64 * 1024
_DUMP_S = 1.0
_ORPHANS_STOP_S = 30.0
_ORPHANS_CHECK_S = 0.05


class StartFailed(SkysailError):
    """A service ended before it was ready, or was not ready in time."""


@dataclass(frozen=True)
class Watch:
    """The liveness check by which a parent detects a hung child."""

    answers: Callable[[Mapping[str, str]], Awaitable[bool]]
    """Check that calls the child once, with the addresses that the child bound."""
    patience_s: float
    """Longest duration of `answers`."""
    limit_s: float
    """Silence after which the parent kills the child."""


class Child:
    """One child process.

    The child leads a new session, so that Ctrl-C reaches only the supervisor. Its standard input is
    the end of a pipe, so that it detects the death of the supervisor.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[Mapping[str, str]], Sequence[str]],
        environment: Mapping[str, str],
        start_timeout_s: float = 30.0,
        *,
        watch: Watch | None = None,
        hands_over: bool = False,
        has_session: bool = True,
        clock: Clock = MONOTONIC,
    ) -> None:
        """Describe the process; `start` starts it.

        Args:
            name: Name of the process, for people.
            command: Function that returns the command line. Its argument is the addresses that the
                first run bound (empty for the first run), so that later runs bind the same.
            environment: Environment of the process.
            start_timeout_s: Longest time until the ready line.
            watch: Check that detects a hung process; None turns detection off.
            hands_over: True if processes of its session outlive it; they stop once its successor is
                ready.
            has_session: False to leave the process in the session of its parent.
            clock: Clock for `watch`.
        """
        self.name = name
        self.bound: dict[str, str] = {}
        self._command = command
        self._environment = dict(environment)
        self._start_timeout_s = start_timeout_s
        self._watch = watch
        self._hands_over = hands_over
        self._has_session = has_session
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._orphans: list[int] = []
        self._stopping_sessions: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int:
        """Process id of the present run; 0 before the first."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process and return once it is ready.

        Raises:
            StartFailed: the process ended or was not ready in time; its output is on standard error.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command(self.bound),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=self._has_session,
            limit=_OUTPUT_LIMIT_BYTES,
        )
        self._process = process
        assert process.stdout is not None
        reading = asyncio.ensure_future(read_ready_line(process.stdout))
        try:
            # Before Python 3.12, wait_for loses a cancellation that comes at the same time as its
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
        self._stop_orphans()

    async def keep_running(self) -> None:
        """Restart the process after each crash or hang, until this call is cancelled."""
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            ready_at = self._clock()
            status = await self._until_ended()
            is_steady = self._clock() - ready_at >= _STEADY_S
            if self._hands_over:
                self._orphans.append(self.pid)
            log.warning("service ended; restarting", extra=self._facts(status))
            if is_steady:
                back_off.reset()
            else:
                await asyncio.sleep(back_off.next_s())
            while True:
                try:
                    await self.start()
                except (SkysailError, OSError) as error:
                    facts = {"service_name": self.name, "error": str(error)}
                    log.error("service does not start", extra=facts)
                    await asyncio.sleep(back_off.next_s())
                else:
                    log.info("service is ready again", extra={"service_name": self.name})
                    break

    async def _until_ended(self) -> int:
        """Return the exit status once the process has ended; kill one that hangs."""
        ended = asyncio.ensure_future(self._ended())
        silent = asyncio.ensure_future(self._silent())
        try:
            await asyncio.wait({ended, silent}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                silent.result()
                log.error(
                    "service hangs and is killed",
                    extra={"service_name": self.name, "pid": self.pid},
                )
                await self._dump_and_kill()
            return await ended
        finally:
            ended.cancel()
            silent.cancel()
            await asyncio.gather(ended, silent, return_exceptions=True)

    async def _ended(self) -> int:
        assert self._process is not None
        await self._drain_output()
        return await self._process.wait()

    async def _silent(self) -> None:
        watch = self._watch
        if watch is None:
            await asyncio.Event().wait()
            return
        await wait_for_silence(
            lambda: watch.answers(self.bound), self._clock, watch.limit_s, watch.patience_s
        )

    async def _dump_and_kill(self) -> None:
        """Make the process write the stacks of its threads, if it still can, and kill only it."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGABRT)
            ended = asyncio.ensure_future(self._process.wait())
            await asyncio.wait({ended}, timeout=_DUMP_S)
            ended.cancel()
            self._process.kill()

    def _facts(self, status: int) -> dict[str, object]:
        return {"service_name": self.name, "pid": self.pid, "exit_status": status}

    async def _drain_output(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        # The output is read in chunks, because a line may exceed the limit of the reader.
        while output := await self._process.stdout.read(_OUTPUT_CHUNK_BYTES):
            # A closed terminal rejects output.
            with contextlib.suppress(OSError):
                sys.stderr.buffer.write(output)
                sys.stderr.flush()

    async def stop(self, timeout_s: float) -> None:
        """Stop the process by SIGTERM and wait for its end; kill it after `timeout_s`.

        The caller cancels `keep_running` before.
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
        if self._hands_over:
            self._orphans.append(self.pid)
        self._stop_orphans()
        await asyncio.gather(*self._stopping_sessions)

    async def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            if self._has_session:
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        await self._process.wait()

    def _stop_orphans(self) -> None:
        while self._orphans:
            ending = asyncio.ensure_future(_stop_session(self._orphans.pop()))
            self._stopping_sessions.add(ending)
            ending.add_done_callback(self._stopping_sessions.discard)


async def _stop_session(leader: int) -> None:
    """Stop the remaining processes of a session whose leader has died, and wait for their end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGTERM)
        for _ in range(int(_ORPHANS_STOP_S / _ORPHANS_CHECK_S)):
            await asyncio.sleep(_ORPHANS_CHECK_S)
            os.killpg(leader, 0)
        os.killpg(leader, signal.SIGKILL)


def python_module(module: str, *flags: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *flags]

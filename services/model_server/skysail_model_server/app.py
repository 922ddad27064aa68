"""One replica: the main thread runs user code, a second one answers the network.

main thread          load ──► warm up ──► run batches ──► end
                      ▲ artifact           ▲
I/O thread           fetch ─────── serve ──┴── SIGTERM: drain
"""

import asyncio
import contextlib
import gc
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import uvloop

from skysail_common.clock import MONOTONIC, NEVER
from skysail_common.errors import InvalidInput, SkysailError, Unavailable
from skysail_common.identifiers import ReplicaId
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.process.settings import read_settings
from skysail_common.replica_reports import NOT_LOADED
from skysail_common.rpc.channels import MAX_LINK_MESSAGE_BYTES
from skysail_common.rpc.grpc_transport import GrpcTransport
from skysail_common.rpc.serving import print_ready_line
from skysail_common.rpc.transports import uses_native
from skysail_common.states import ExitCode
from skysail_model_server.ending import end_in_time, give_up
from skysail_model_server.execution import MAX_LOST_BATCHES, Execution
from skysail_model_server.fetching import fetch_artifact
from skysail_model_server.forks import close_connections, end_fork
from skysail_model_server.loading import LoadFailed, load_model
from skysail_model_server.log_file import LogFile
from skysail_model_server.loop_serving import LoopServing
from skysail_model_server.memory import limit_memory, out_of_memory
from skysail_model_server.model import Model
from skysail_model_server.output_streams import open_output_streams
from skysail_model_server.replica_log import configure_log
from skysail_model_server.serving import Serving
from skysail_model_server.settings import ModelServerSettings
from skysail_model_server.start_progress import StartProgress
from skysail_model_server.stop_signals import StopSignals
from skysail_model_server.warm_up import WarmUpLimits
from skysail_model_server.watchdog import Watchdog

log = logging.getLogger(__name__)

_LOG_CHECK_S = 1.0


class _IoThread:
    """The event loop of the network, on a thread of its own."""

    def __init__(self, settings: ModelServerSettings) -> None:
        self.status = ExitCode.OK
        """How the process is to end."""
        self._settings = settings
        self._replica_id = ReplicaId.parse(settings.replica_id)
        self._listening: Future[Serving] = Future()
        self._loop = uvloop.new_event_loop()
        self._model_is_ready = asyncio.Event()
        self.progress = StartProgress(MONOTONIC)
        self._watchdog = Watchdog(settings.stuck_after_s or NEVER, MONOTONIC)
        self._tasks = BackgroundTasks()
        self._telling: asyncio.Task[None] | None = None
        self._signals = StopSignals()
        os.register_at_fork(after_in_child=lambda: close_connections(settings.listen_address))
        self._thread = threading.Thread(target=self._run, name="io", daemon=True)
        self._thread.start()

    def fetch(self, target: Path) -> None:
        """Write the artifact to `target`; called on the main thread."""
        self._listening.result()
        self.progress.begin("fetching the artifact")
        fetching = fetch_artifact(
            self._settings.management_endpoint,
            self._settings.replica_id,
            self._settings.token.get_secret_value(),
            target,
            self._settings.fetch_timeout_s,
            self._settings.artifact_sha256,
        )
        asyncio.run_coroutine_threadsafe(fetching, self._loop).result()

    def run(self, model: Model) -> None:
        """Answer batches until the replica is told to stop; called on the main thread."""
        serving = self._listening.result()
        asyncio.run_coroutine_threadsafe(self._begin(serving, model), self._loop).result()
        execution = Execution(model, self._watchdog, self._end_out_of_memory)
        os.register_at_fork(after_in_child=execution.end_in_fork)
        serving.run(execution)

    def _end_out_of_memory(self) -> None:
        self.status = ExitCode.OUT_OF_MEMORY
        self._signals.stop()

    async def _begin(self, serving: Serving, model: Model) -> None:
        if self._telling is not None:
            self._telling.cancel()
        # Before anybody can see that it is.
        log.info(
            "replica is ready",
            extra={"replica": self._replica_id, "grpc": self._settings.listen_address},
        )
        self._watchdog.learn(model.longest_call_s)
        self._tasks.start(self._watchdog.run(), "watch for stuck calls")
        await serving.begin(model)
        self._model_is_ready.set()
        if self._settings.log_format != "json":
            # Among objects it would be a line that no reader of them expects.
            print_ready_line("model-server", grpc=self._settings.listen_address)

    def join(self) -> None:
        """Wait until the network is closed."""
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._listening.done():
                self._listening.set_exception(error)
            else:
                log.exception("the I/O thread failed")
                os._exit(ExitCode.FAILED)

    async def _serve(self) -> None:
        serving = self._make_serving()
        await serving.start(self._settings.listen_address)
        self._listening.set_result(serving)
        if self._settings.log_file is not None:
            self._tasks.start(self._rotate_log(self._settings.log_file), "rotate log")
        self._telling = self._tasks.start(self.progress.run(), "tell what the start takes")
        await self._signals.wait()
        if not self._model_is_ready.is_set():
            # Nothing is in hand, and what the main thread is loading cannot be interrupted.
            os._exit(ExitCode.OK)
        log.info("draining")
        await serving.drain()
        await self._tasks.stop()

    def _make_serving(self) -> Serving:
        settings = self._settings
        if uses_native(settings.transport):
            # Only here: it may not be installed.
            from skysail_model_server.direct_serving import DirectServing

            return DirectServing(self._replica_id)
        return LoopServing(
            GrpcTransport(MAX_LINK_MESSAGE_BYTES), self._replica_id, settings.max_queued_batches
        )

    async def _rotate_log(self, path: Path) -> None:
        file = LogFile(path, self._settings.log_max_mib * 1024 * 1024)
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            # On a full disk no new file can be made; there may be room later.
            with contextlib.suppress(OSError):
                file.rotate_if_full()


def main(arguments: Sequence[str]) -> int:
    """Run one replica until it is told to stop and return the exit status of the process."""
    try:
        settings = read_settings(ModelServerSettings, "skysail-model-server", arguments)
        open_output_streams()
        configure_log(settings)
        limit_memory(settings.memory_limit_mib)
        io = _IoThread(settings)
    except InvalidInput as error:
        sys.stderr.write(f"{error.message}\n")
        return ExitCode.USAGE
    pid = os.getpid()
    try:
        model = _load(settings, io)
    except LoadFailed as error:
        log.error("%s: %s", NOT_LOADED, error.cause or error.message)
        give_up(error, ExitCode.LOAD_FAILED, settings.log_format)
    except Unavailable as error:
        give_up(error, ExitCode.UNAVAILABLE, settings.log_format)
    except SkysailError as error:
        give_up(error, ExitCode.FAILED, settings.log_format)
    if os.getpid() != pid:
        end_fork(None)
    # What is loaded stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    try:
        io.run(model)
    except Exception:
        log.exception("the main thread failed")
        # Threads that the user's code has left would keep a process alive that answers nothing.
        os._exit(ExitCode.FAILED)
    io.join()
    if io.status is ExitCode.OUT_OF_MEMORY:
        give_up(out_of_memory(MAX_LOST_BATCHES), io.status, settings.log_format)
    end_in_time()
    return io.status


def _load(settings: ModelServerSettings, io: _IoThread) -> Model:
    limits = (
        WarmUpLimits(settings.warm_up_s, settings.warm_up_max_rows) if settings.warm_up else None
    )
    if settings.artifact_file is not None:
        return load_model(settings.artifact_file, settings.work_dir, limits, io.progress)
    with tempfile.TemporaryDirectory(dir=settings.work_dir) as directory:
        artifact = Path(directory) / "artifact.zip"
        io.fetch(artifact)
        return load_model(artifact, settings.work_dir, limits, io.progress)

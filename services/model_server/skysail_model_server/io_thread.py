"""The I/O thread of a replica: it answers the network while the main thread runs user code."""

import asyncio
import contextlib
import logging
import os
import threading
from concurrent.futures import Future
from pathlib import Path

import uvloop

from skysail_common.artifact_files import UnpackedArtifact
from skysail_common.clock import MONOTONIC, NEVER
from skysail_common.identifiers import ReplicaId
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.process.ready_line import print_ready_line
from skysail_common.rpc.channels import MAX_LINK_MESSAGE_BYTES
from skysail_common.rpc.grpc_transport import GrpcTransport
from skysail_common.rpc.transports import uses_native
from skysail_common.states import ExitCode
from skysail_model_server.artifact_download import download_artifact
from skysail_model_server.asyncio_batch_server import AsyncioBatchServer
from skysail_model_server.batch_server import BatchServer
from skysail_model_server.call_watchdog import CallWatchdog
from skysail_model_server.log_file import LogFile
from skysail_model_server.model import Model
from skysail_model_server.settings import ModelServerSettings
from skysail_model_server.start_progress import StartProgress
from skysail_model_server.stop_signals import StopSignals

log = logging.getLogger(__name__)

_LOG_CHECK_S = 1.0


class IoThread:
    """An event loop on its own thread, which listens from its start until a stop signal.

    The main thread calls the public methods.
    """

    def __init__(self, settings: ModelServerSettings) -> None:
        self.progress = StartProgress(MONOTONIC)
        self.watchdog = CallWatchdog(settings.stuck_after_s or NEVER, MONOTONIC)
        self.signals = StopSignals()
        self._settings = settings
        self._replica_id = ReplicaId.parse(settings.replica_id)
        self._listening: Future[BatchServer] = Future()
        self._loop = uvloop.new_event_loop()
        self._model_is_ready = asyncio.Event()
        self._tasks = BackgroundTasks()
        self._progress_task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="io", daemon=True)

    def start(self) -> None:
        """Start the thread, which listens at once."""
        self._thread.start()

    def download(self, directory: Path) -> UnpackedArtifact:
        """Lay out the artifact in a directory, and return it."""
        self._listening.result()
        self.progress.begin("fetching the artifact")
        download = download_artifact(
            self._settings.artifact_access(),
            directory,
            self._settings.download_options(),
            self.progress.note,
        )
        return asyncio.run_coroutine_threadsafe(download, self._loop).result()

    def serve(self, model: Model) -> BatchServer:
        """Accept batches for the model and return the server that queues them."""
        server = self._listening.result()
        asyncio.run_coroutine_threadsafe(self._accept_batches(server, model), self._loop).result()
        return server

    def join(self) -> None:
        """Wait until the network is closed."""
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._listen_until_stopped())
        except BaseException as error:
            if not self._listening.done():
                self._listening.set_exception(error)
            else:
                log.exception("I/O thread failed")
                os._exit(ExitCode.FAILED)

    async def _listen_until_stopped(self) -> None:
        server = self._make_server()
        await server.start(self._settings.listen_address)
        self._listening.set_result(server)
        if self._settings.log_file is not None:
            self._tasks.start(self._rotate_log(self._settings.log_file), "rotate log")
        self._progress_task = self._tasks.start(self.progress.run(), "report start progress")
        await self.signals.wait()
        if not self._model_is_ready.is_set():
            # No batch is queued, and nothing interrupts the load on the main thread.
            os._exit(ExitCode.OK)
        log.info("draining")
        await server.drain()
        await self._tasks.stop()

    def _make_server(self) -> BatchServer:
        settings = self._settings
        if uses_native(settings.transport):
            # The import is here because the native transport may not be installed.
            from skysail_model_server.native_batch_server import NativeBatchServer

            return NativeBatchServer(self._replica_id)
        return AsyncioBatchServer(
            GrpcTransport(MAX_LINK_MESSAGE_BYTES), self._replica_id, settings.max_queued_batches
        )

    async def _accept_batches(self, server: BatchServer, model: Model) -> None:
        if self._progress_task is not None:
            self._progress_task.cancel()
        # The log has this line before any client can see that the replica is ready.
        log.info(
            "replica is ready",
            extra={"replica": self._replica_id, "grpc": self._settings.listen_address},
        )
        self.watchdog.learn(model.longest_call_s, model.waiting_frames)
        self._tasks.start(self.watchdog.run(), "watch for stuck calls")
        await server.begin(model)
        self._model_is_ready.set()
        if self._settings.log_format != "json":
            # Readers of a JSON log expect no plain line in it.
            print_ready_line("model-server", grpc=self._settings.listen_address)

    async def _rotate_log(self, path: Path) -> None:
        file = LogFile(path, self._settings.log_max_mib * 1024 * 1024)
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            # A full disk holds no new file, but may have space later.
            with contextlib.suppress(OSError):
                file.rotate_if_full()

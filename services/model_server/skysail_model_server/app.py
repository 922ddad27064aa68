"""One replica: the main thread runs user code, a second one answers the network.

main thread          load ──► warm up ──► run batches ──► end
                      ▲ artifact            ▲ jobs │ results
I/O thread           fetch, health, streams ┴──────┴── SIGTERM: drain
"""

import asyncio
import gc
import logging
import os
import queue
import resource
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import uvloop

from skysail_common.errors import InvalidInput, SkysailError, Unavailable
from skysail_common.identifiers import ReplicaId
from skysail_common.lifecycle import BackgroundTasks
from skysail_common.logs import configure
from skysail_common.rpc.channels import MAX_LINK_MESSAGE_BYTES
from skysail_common.rpc.serving import GrpcServer, print_ready_line
from skysail_common.settings import read_settings
from skysail_common.states import ExitCode
from skysail_model_server.execution import Execution
from skysail_model_server.fetching import fetch_artifact
from skysail_model_server.loading import LoadFailed, load_model
from skysail_model_server.log_file import LogFile
from skysail_model_server.model import Model
from skysail_model_server.servicer import Job, ModelServerServicer
from skysail_model_server.settings import ModelServerSettings
from skysail_protos.v1 import model_server_pb2_grpc

log = logging.getLogger(__name__)

_SERVICE = "skysail.v1.ModelServer"
_STOP_GRACE_S = 1.0
_LOG_CHECK_S = 1.0
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class _IoThread:
    """The event loop of the network, on a thread of its own."""

    def __init__(self, settings: ModelServerSettings, jobs: "queue.SimpleQueue[Job | None]"):
        self._settings = settings
        self._jobs = jobs
        self._replica_id = ReplicaId.parse(settings.replica_id)
        self._listening: Future[None] = Future()
        self._loop = uvloop.new_event_loop()
        self._model_is_ready = asyncio.Event()
        self._servicer = ModelServerServicer(self._replica_id, jobs, settings.max_queued_batches)
        # The C level of the interpreter writes the number of a signal into this socket at once,
        # whatever the main thread is doing.
        self._signals, wake = socket.socketpair()
        self._signals.setblocking(False)
        wake.setblocking(False)
        self._wake = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        self._thread = threading.Thread(target=self._run, name="io", daemon=True)
        self._thread.start()

    def fetch(self, target: Path) -> None:
        """Write the artifact to `target`; called on the main thread."""
        self._listening.result()
        fetching = fetch_artifact(
            self._settings.management_endpoint,
            self._settings.replica_id,
            self._settings.token.get_secret_value(),
            target,
            self._settings.fetch_timeout_s,
        )
        asyncio.run_coroutine_threadsafe(fetching, self._loop).result()

    def begin(self, model: Model) -> None:
        """Take batches for the model; called on the main thread."""

        def begin() -> None:
            self._servicer.begin(model)
            self._model_is_ready.set()

        self._loop.call_soon_threadsafe(begin)

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
        finally:
            self._jobs.put(None)

    async def _serve(self) -> None:
        server = GrpcServer([_SERVICE], max_message_bytes=MAX_LINK_MESSAGE_BYTES)
        model_server_pb2_grpc.add_ModelServerServicer_to_server(self._servicer, server.grpc)
        server.bind(self._settings.listen_address)
        await server.start()
        self._listening.set_result(None)
        tasks = BackgroundTasks()
        tasks.start(self._announce(server), "announce readiness")
        if self._settings.log_file is not None:
            tasks.start(self._rotate_log(self._settings.log_file), "rotate log")
        await stop_signal(self._signals)
        if not self._model_is_ready.is_set():
            # Nothing is in hand, and what the main thread is loading cannot be interrupted.
            os._exit(ExitCode.OK)
        log.info("draining")
        await server.set_serving(False)
        await self._servicer.drain()
        await tasks.stop()
        await server.stop(_STOP_GRACE_S)

    async def _announce(self, server: GrpcServer) -> None:
        await self._model_is_ready.wait()
        await server.set_serving(True)
        log.info("replica is ready", extra={"replica": self._replica_id})
        print_ready_line("model-server", grpc=self._settings.listen_address)

    async def _rotate_log(self, path: Path) -> None:
        file = LogFile(path, self._settings.log_max_mib * 1024 * 1024)
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            file.rotate_if_full()


async def stop_signal(numbers: socket.socket) -> None:
    """Return once a signal that ends the replica has come.

    The number of every signal comes for which there is a handler in Python, those of the user's
    code too.
    """
    loop = asyncio.get_running_loop()
    while _STOP_SIGNALS.isdisjoint(await loop.sock_recv(numbers, 64)):
        pass


def main(arguments: Sequence[str]) -> int:
    """Run one replica until it is told to stop and return the exit status of the process."""
    try:
        settings = read_settings(ModelServerSettings, "skysail-model-server", arguments)
        jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        configure("model-server", settings.log_level, settings.log_format)
        _limit_memory(settings.memory_limit_mib)
        io = _IoThread(settings, jobs)
    except InvalidInput as error:
        sys.stderr.write(f"{error.message}\n")
        return ExitCode.USAGE
    try:
        execution = Execution(_load(settings, io))
    except LoadFailed as error:
        sys.stderr.write(f"{error.message}\n")
        return ExitCode.LOAD_FAILED
    except Unavailable as error:
        sys.stderr.write(f"{error.message}\n")
        return ExitCode.UNAVAILABLE
    except SkysailError as error:
        sys.stderr.write(f"{error.message}\n")
        return ExitCode.FAILED
    # What is loaded stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    while (job := jobs.get()) is not None:
        job.finish(execution.run(job.batch))
    io.join()
    return ExitCode.OK


def _load(settings: ModelServerSettings, io: _IoThread) -> Model:
    with tempfile.TemporaryDirectory(dir=settings.work_dir) as directory:
        artifact = Path(directory) / "artifact.zip"
        io.fetch(artifact)
        model = load_model(artifact, settings.work_dir)
    io.begin(model)
    return model


def _limit_memory(limit_mib: int) -> None:
    if limit_mib:
        # Counts what is written, not address space that libraries only reserve.
        limit = limit_mib * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

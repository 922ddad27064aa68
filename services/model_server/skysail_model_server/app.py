"""One replica: the main thread runs user code, the I/O thread answers the network.

main thread          load ──► warm up ──► run batches ──► end
                      ▲ artifact           ▲
I/O thread          download ────── serve ─┴── SIGTERM: drain
"""

import gc
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from skysail_common.artifact_files import UnpackedArtifact
from skysail_common.clock import MONOTONIC, NEVER
from skysail_common.errors import FailedPrecondition, InvalidInput, SkysailError, Unavailable
from skysail_common.identifiers import ReplicaId
from skysail_common.loaders.base import ModelContext
from skysail_common.process.settings import read_settings
from skysail_common.replica_events import NOT_LOADED, UNHEALTHY
from skysail_common.states import ExitCode
from skysail_model_server.device import choose_device
from skysail_model_server.execution import MAX_LOST_BATCHES, Execution, error_text
from skysail_model_server.forks import close_connections, end_fork
from skysail_model_server.io_thread import IoThread
from skysail_model_server.memory import limit_memory, out_of_memory
from skysail_model_server.model import Model
from skysail_model_server.model_health import ModelHealth
from skysail_model_server.model_loader import LoadFailed, load_model
from skysail_model_server.output_streams import open_output_streams
from skysail_model_server.process_exit import exit_with_error, exit_within_grace
from skysail_model_server.replica_log import configure_log
from skysail_model_server.settings import ModelServerSettings
from skysail_model_server.unpacked_directories import hold
from skysail_model_server.warm_up import WarmUpLimits

log = logging.getLogger(__name__)


class ModelServer:
    """One replica, from its settings to its exit status; its methods belong to the main thread."""

    def __init__(self, settings: ModelServerSettings) -> None:
        """Build the replica: output streams, log, memory limit and I/O thread.

        Raises:
            InvalidInput: a setting is wrong.
        """
        self._settings = settings
        self._status = ExitCode.OK
        open_output_streams()
        configure_log(settings)
        limit_memory(settings.memory_limit_mib)
        self._io = IoThread(settings)
        os.register_at_fork(after_in_child=lambda: close_connections(settings.listen_address))

    def start(self) -> Model:
        """Listen, load and warm up the model; end the process if that fails."""
        log_format = self._settings.log_format
        pid = os.getpid()
        self._io.start()
        try:
            model = self._load()
        except LoadFailed as error:
            log.error("%s: %s", NOT_LOADED, error.cause)
            exit_with_error(LoadFailed(error.details), ExitCode.LOAD_FAILED, log_format)
        except Unavailable as error:
            exit_with_error(error, ExitCode.UNAVAILABLE, log_format)
        except SkysailError as error:
            exit_with_error(error, ExitCode.FAILED, log_format)
        if os.getpid() != pid:
            end_fork(None)
        # The model lives as long as the process, so the collector need not scan it again.
        gc.collect()
        gc.freeze()
        return model

    def serve(self, model: Model) -> None:
        """Run batches until a signal stops the replica."""
        server = self._io.serve(model)
        watchdog = self._io.watchdog
        interval_s = self._settings.check_health_s or NEVER
        health = ModelHealth(model.hooked, interval_s, MONOTONIC, watchdog, self._end_unhealthy)
        server.run(Execution(model, watchdog, self._stop_out_of_memory, health))

    def drain(self) -> ExitCode:
        """Wait until the I/O thread has sent all results, and return the exit status."""
        self._io.join()
        if self._status is ExitCode.OUT_OF_MEMORY:
            exit_with_error(
                out_of_memory(MAX_LOST_BATCHES), self._status, self._settings.log_format
            )
        exit_within_grace()
        return self._status

    def _stop_out_of_memory(self) -> None:
        self._status = ExitCode.OUT_OF_MEMORY
        self._io.signals.stop()

    def _end_unhealthy(self, error: BaseException) -> NoReturn:
        """End the process at once: frontends send its queued batches to other replicas."""
        cause = error_text(error)
        # Management reads this line, because the log is its only source after the end of a replica.
        log.error("%s: %s", UNHEALTHY, cause, exc_info=error)
        failure = FailedPrecondition(f"the model is unhealthy: {cause}")
        exit_with_error(failure, ExitCode.UNHEALTHY, self._settings.log_format)

    def _load(self) -> Model:
        settings = self._settings
        limits = (
            WarmUpLimits(settings.warm_up_s, settings.warm_up_max_rows)
            if settings.warm_up
            else None
        )
        if settings.artifact_dir is not None:
            hold(settings.artifact_dir)
            artifact = UnpackedArtifact(settings.artifact_dir, settings.artifact_sha256)
        else:
            artifact = self._io.download(settings.work_dir / "artifact")
        return load_model(artifact, self._context(), limits, self._io.progress)

    def _context(self) -> ModelContext:
        replica_id = ReplicaId.parse(self._settings.replica_id)
        return ModelContext(
            name=replica_id.model_version.model_name,
            version=replica_id.model_version.version,
            replica_index=replica_id.index,
            num_threads=self._settings.num_threads,
            device=choose_device(self._settings.gpus),
            owns_process=True,
        )


def main(arguments: Sequence[str]) -> int:
    """Run one replica until a signal stops it, and return the exit status of the process."""
    try:
        settings = read_settings(ModelServerSettings, "skysail-model-server", arguments)
        replica = ModelServer(settings)
    except InvalidInput as error:
        sys.stderr.write(f"{error.message}\n")
        return ExitCode.USAGE
    model = replica.start()
    try:
        replica.serve(model)
    except Exception:
        log.exception("main thread failed")
        # Threads of the user's code would keep alive a process that answers nothing.
        os._exit(ExitCode.FAILED)
    status = replica.drain()
    try:
        model.close()
    except Exception:
        log.exception("model not closed")
    return status

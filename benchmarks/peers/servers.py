"""Starts the server of a peer, waits until it is ready, and stops all of its processes."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil

from benchmarks.peers import MODELS, Peer, PeerFailed
from skysail_protos.inference import grpc_service_pb2, grpc_service_pb2_grpc

HOST = "127.0.0.1"
_READY_TIMEOUT_S = 60.0
_CALL_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 20.0
_REST_TIMEOUT_S = 3.0
_CHECK_S = 0.1
_LOG_TAIL_CHARACTERS = 3000
_CHANNEL_OPTIONS = (
    # A web proxy must not receive calls on this machine.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


def free_ports(count: int) -> list[int]:
    """Return ports that are free at this instant."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def open_channel(endpoint: str) -> grpc.Channel:
    """Return a blocking channel to a peer."""
    return grpc.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)


@contextmanager
def serving(
    name: str,
    command: Sequence[str],
    programs: Path,
    directory: Path,
    grpc_port: int,
    http_port: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Peer]:
    """Run a server until the context ends; yield it once all its models are ready.

    Args:
        name: Name of the server.
        command: Command line of the server.
        programs: Directory of the programs of its environment.
        directory: Working directory of the server, also for its log.
        grpc_port: Port on which the server will listen for gRPC.
        http_port: Port on which the server will listen for HTTP.
        environment: Variables in addition to the common ones.

    Raises:
        PeerFailed: the server ended or timed out before it was ready.
    """
    log = directory / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            # The environment of this process is not inherited, because it may contain proxies and
            # search paths.
            env={
                "HOME": str(directory),
                "LANG": "C.UTF-8",
                "PATH": f"{programs}:{os.defpath}",
                # Skysail sets the same values for two replicas on two cores.
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # The session identifies all processes of the server, also after their parent has ended.
            start_new_session=True,
        )
    try:
        endpoint = f"{HOST}:{grpc_port}"
        reason = _wait_ready(endpoint, process.pid)
        if reason:
            tail = log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]
            raise PeerFailed(f"{name} {reason}; the end of its log:\n{tail}")
        yield Peer(name, endpoint, f"{HOST}:{http_port}", lambda: _members(process.pid))
    finally:
        _end(process)


def _wait_ready(endpoint: str, pid: int) -> str | None:
    """Return None once every model is ready, or the reason why one did not become ready."""
    end = time.monotonic() + _READY_TIMEOUT_S
    missing = list(MODELS)
    with open_channel(endpoint) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while time.monotonic() < end:
            if _has_ended(pid):
                return "ended before it was ready"
            try:
                request = grpc_service_pb2.ModelReadyRequest(name=missing[0])
                is_ready = stub.ModelReady(request, timeout=_CALL_TIMEOUT_S).ready
            except grpc.RpcError:
                is_ready = False
            if not is_ready:
                time.sleep(_CHECK_S)
                continue
            del missing[0]
            if not missing:
                return None
    return f"was not ready within {_READY_TIMEOUT_S:g} s (missing: {', '.join(missing)})"


def _has_ended(pid: int) -> bool:
    # The process is not reaped: while it is a zombie, no other process or session can get its id.
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _members(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a server, and kill the remaining processes of its session."""
    session = process.pid
    # process.terminate() could reap the process, and its id must stay reserved until the last line.
    os.kill(session, signal.SIGTERM)
    _within(_STOP_TIMEOUT_S, lambda: _has_ended(session))
    if not _within(_REST_TIMEOUT_S, lambda: not _members(session)):
        for pid in _members(session):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _within(_REST_TIMEOUT_S, lambda: not _members(session))
    process.wait()


def _within(timeout_s: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_CHECK_S)
    return True

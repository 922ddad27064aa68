"""Runs the server of a peer: started, known to be ready, ended with all that it started."""

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
    # A proxy set for the web must not catch calls on this machine.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on at this moment."""
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
        name: Its name, for people.
        command: Its command line.
        programs: Where the programs of its environment are.
        directory: Its working directory, which also takes its log.
        grpc_port: Where it will listen.
        http_port: Likewise, for HTTP.
        environment: Variables beside the common ones.

    Raises:
        PeerFailed: it ended, or took too long, before it was ready.
    """
    log = directory / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            # Nothing of ours: neither proxies nor search paths.
            env={
                "HOME": str(directory),
                "LANG": "C.UTF-8",
                "PATH": f"{programs}:{os.defpath}",
                # As Skysail has it for two replicas on two cores.
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # By its session all processes are found, also those whose parent is gone.
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
    """Return None once every model is ready, otherwise why that will not be."""
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
    # Without reaping it: while it is a zombie, no other process or session can get its id.
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
    """Have a server end, and kill what it leaves of its session."""
    session = process.pid
    # Not process.terminate(), which may reap it: until the last line its id must stay its own.
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

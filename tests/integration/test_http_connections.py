"""Kept HTTP connections: draining workers, limits and malformed requests."""

import http.client
import json
import os
import signal
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from skysail_testing import models
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.processes import eventually

INFER = "/v2/models/double/infer"
TENSOR = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 1, 1]}
BODY = json.dumps({"inputs": [TENSOR]}).encode()


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A cluster whose frontend has two workers."""
    with running_cluster(tmp_path_factory.mktemp("h"), "--workers", "2") as cluster:
        with cluster.client() as client:
            client.deploy(models.double, name="double", version="1", example=np.ones((1, 3)))
        yield cluster


def workers_of(cluster: RunningCluster) -> list[psutil.Process]:
    """Return the workers that listen to clients."""
    port = int(cluster.http.rpartition(":")[2])
    children = psutil.Process(cluster.service_pid("skysail_frontend")).children()
    return [each for each in children if "LISTEN" in states(each, port)]


def states(worker: psutil.Process, port: int) -> list[str]:
    """Return the states of a worker's sockets on a local port."""
    try:
        connections = worker.net_connections("tcp")
    except psutil.Error:
        return []
    return [each.status for each in connections if each.laddr and each.laddr.port == port]


def num_clients(worker: psutil.Process, port: int) -> int:
    return states(worker, port).count("ESTABLISHED")


class KeptConnections:
    """Clients that keep their connections, and close one only when an answer asks for it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.answers: Counter[str] = Counter()
        self.done = threading.Event()
        self._room = threading.Condition()

    def ask(self) -> None:
        connection = self._connected()
        while not self.done.is_set():
            try:
                connection.request("POST", INFER, BODY)
                answer = connection.getresponse()
                outputs = json.loads(answer.read())["outputs"]
                outcome = str(outputs[0]["data"])
            except (OSError, http.client.HTTPException) as error:
                outcome = repr(error)
                connection.close()
            with self._room:
                self.answers[outcome] += 1
                self._room.notify_all()
            if connection.sock is None:
                with self._room:
                    self.answers["reconnected"] += 1
                connection = self._connected()
        connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self.endpoint, timeout=20)
        connection.connect()
        # Otherwise the library silently reopens a connection that was cut before a request.
        connection.auto_open = 0
        return connection

    def wait_for_more(self, count: int) -> None:
        goal = self.answers.total() + count
        with self._room:
            assert self._room.wait_for(lambda: self.answers.total() >= goal, 30)


def test_a_draining_worker_cuts_no_kept_connection(working: RunningCluster):
    """The clients do not check their connections, as many libraries do not."""
    clients = KeptConnections(working.http)
    port = int(working.http.rpartition(":")[2])
    with ThreadPoolExecutor(12) as pool:
        asking = [pool.submit(clients.ask) for _ in range(12)]
        try:
            clients.wait_for_more(200)
            victim = max(workers_of(working), key=lambda worker: num_clients(worker, port))
            assert num_clients(victim, port) > 0
            os.kill(victim.pid, signal.SIGTERM)
            _, alive = psutil.wait_procs([victim], timeout=20)
            assert not alive
            clients.wait_for_more(200)
        finally:
            clients.done.set()
        for each in asking:
            each.result(30)
    assert clients.answers.pop("reconnected") > 0
    assert set(clients.answers) == {"[2.0, 2.0, 2.0]"}
    eventually(lambda: len(workers_of(working)) == 2, what="another worker took its place")


def test_a_draining_worker_answers_idle_connections_once_more(working: RunningCluster):
    host, _, port = working.http.rpartition(":")
    kept = [http.client.HTTPConnection(host, int(port), timeout=20) for _ in range(16)]

    def is_closed_by(connection: http.client.HTTPConnection) -> bool:
        connection.request("POST", INFER, BODY)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        return answer.getheader("connection") == "close"

    assert not any(is_closed_by(each) for each in kept)
    victim = max(workers_of(working), key=lambda worker: num_clients(worker, int(port)))
    num_kept = num_clients(victim, int(port))
    os.kill(victim.pid, signal.SIGTERM)
    num_closed = 0

    def has_closed_all() -> bool:
        nonlocal num_closed
        for connection in [each for each in kept if each.sock is not None]:
            num_closed += is_closed_by(connection)
        return num_closed >= num_kept

    # The worker answers each client once more, with `connection: close`.
    eventually(has_closed_all, what="all clients of the worker must close")
    assert num_closed == num_kept
    for connection in kept:
        connection.close()
    psutil.wait_procs([victim], timeout=20)
    eventually(lambda: len(workers_of(working)) == 2, what="another worker took its place")


def send(endpoint: str, data: bytes) -> bytes:
    """Send bytes over a new connection and return the whole answer."""
    host, _, port = endpoint.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


@pytest.mark.parametrize("port", ["http", "metrics"])
def test_an_endless_head_is_refused(working: RunningCluster, port: str):
    answer = send(getattr(working, port), b"GET / HTTP/1.1\r\nx: " + b"a" * 1_000_000)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"its head is larger than 65536 bytes" in answer


def test_a_decompression_bomb_is_refused_and_the_connection_stays_usable(working: RunningCluster):
    bomb = zlib.compress(b'{"inputs":[' + b"[]," * 10_000_000 + b"1]}")
    host, _, port = working.http.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request("POST", INFER, bomb, {"content-encoding": "deflate"})
    answer = connection.getresponse()
    assert (answer.status, b"send it uncompressed" in answer.read()) == (413, True)
    connection.request("POST", INFER, BODY)
    assert connection.getresponse().status == 200
    connection.close()


def test_a_foreign_host_header_is_refused_on_loopback(working: RunningCluster):
    answer = send(
        working.http, b"GET /v2 HTTP/1.1\r\nhost: a.example:80\r\nconnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 421 ")


def test_connect_is_refused(working: RunningCluster):
    answer = send(working.http, b"CONNECT x:1 HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_client_may_leave_between_its_answers(working: RunningCluster):
    """The fixture searches the log for internal errors."""
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    request = head % (INFER.encode(), len(BODY)) + BODY
    host, _, port = working.http.rpartition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(request * 15)
            assert connection.recv(10)


def test_an_upgrade_offer_is_ignored(working: RunningCluster):
    """Java's client offers HTTP/2 in its first request."""
    head = (
        f"POST {INFER} HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        f"Content-Length: {len(BODY)}\r\nHost: localhost\r\n"
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n\r\n"
    )
    last = b"GET /v2 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    answers = send(working.http, head.encode() + BODY + last)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert b"[2.0,2.0,2.0]" in answers

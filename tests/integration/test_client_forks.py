"""Clients in programs that fork; each script runs in a new process."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from skysail_testing.clusters import RunningCluster

_TIMEOUT_S = 90


@pytest.fixture(scope="module")
def _deployed(client) -> None:
    def total(x):
        return x.sum(axis=1)

    def slow(x):
        import time

        time.sleep(1)
        return x.sum(axis=1)

    for function in (total, slow):
        name = f"fork-{function.__name__}"
        client.deploy(function, name=name, version="1", example=np.ones((1, 2)))


@pytest.fixture
def run_script(_deployed, cluster: RunningCluster):
    def run(body: str, **environment: str) -> list[str]:
        head = f"""
            import asyncio, multiprocessing, os, sys, threading, time
            import skysail

            def new_client(kind=skysail.Client, **options):
                return kind("{cluster.management}", query_endpoint="{cluster.grpc}", **options)

            def in_child(work):
                pid = os.fork()
                if pid == 0:
                    status = 9
                    try:
                        print(work(), flush=True)
                        status = 0
                    finally:
                        os._exit(status)
                return pid

            def wait(pid):
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                assert status == 0, status

            def ask(client, value=1):
                return client.predict("fork-total", [value, 2], timeout_s=20).output
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=_TIMEOUT_S,
            check=False,
        )
        # gRPC must not warn about forks either.
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout.splitlines()

    return run


def test_used_and_new_clients_work_in_children_and_parent(run_script):
    lines = run_script("""
        client = new_client()
        assert ask(client) == 3
        for index in range(20):
            pid = in_child(lambda: (ask(client, index), ask(new_client(), index)))
            assert ask(client) == 3
            wait(pid)
        print(ask(client))
    """)
    assert lines == [*(f"({index + 2}.0, {index + 2}.0)" for index in range(20)), "3.0"]


def test_a_process_pool_uses_the_clients_of_its_parent(run_script):
    lines = run_script("""
        client = new_client()
        idle = new_client()

        def both(value):
            return ask(client, value) + ask(idle, value)

        ask(client)
        with multiprocessing.get_context("fork").Pool(3) as pool:
            print(pool.map(both, range(8), chunksize=1))
            print(ask(client), ask(idle))
        print(ask(client))
    """)
    assert lines == [str([2.0 * (value + 2) for value in range(8)]), "3.0 3.0", "3.0"]


def test_a_query_in_flight_is_answered_after_a_fork(run_script):
    lines = run_script("""
        client = new_client()
        ask(client)
        found = []
        thread = threading.Thread(
            target=lambda: found.append(client.predict("fork-slow", [1, 2]).output)
        )
        thread.start()
        time.sleep(0.3)
        wait(in_child(lambda: ask(client, 5)))
        thread.join()
        print(found)
    """)
    assert lines == ["7.0", "[3.0]"]


def test_a_deploy_in_flight_survives_forks(run_script):
    lines = run_script("""
        import numpy as np
        client = new_client()

        def loads(x):
            time.sleep(0.2)
            return x

        def deploy():
            version = client.deploy(loads, name="fork-deploy", version="1", example=np.ones((1, 1)))
            print(version.num_ready, flush=True)

        ask(client)
        thread = threading.Thread(target=deploy)
        thread.start()
        while thread.is_alive():
            wait(in_child(lambda: "child"))
            time.sleep(0.1)
    """)
    assert lines.count("1") == 1
    assert lines.count("child") > 1


def test_prefork_workers_use_the_client_of_their_parent(run_script):
    lines = run_script("""
        import socket
        client = new_client()
        ask(client)
        listening = socket.create_server(("127.0.0.1", 0))

        def serve():
            for _ in range(4):
                connection = listening.accept()[0]
                with connection:
                    value = int(connection.recv(100))
                    connection.sendall(str(ask(client, value)).encode())
            return "served"

        workers = [in_child(serve) for _ in range(2)]
        for value in range(8):
            with socket.create_connection(listening.getsockname()) as connection:
                connection.sendall(str(value).encode())
                assert float(connection.recv(100)) == value + 2
        assert ask(client) == 3
        for pid in workers:
            wait(pid)
    """)
    assert lines == ["served", "served"]


def test_a_child_exits_normally(run_script):
    lines = run_script("""
        client = new_client()
        ask(client)
        pid = os.fork()
        print(ask(client), flush=True)
        if pid:
            wait(pid)
            print(ask(client))
    """)
    assert lines == ["3.0", "3.0", "3.0"]


def test_a_child_cannot_connect_while_its_parent_has_an_async_client(run_script):
    script = """
        client = new_client()

        def refusal(work):
            begin = time.monotonic()
            try:
                return work()
            except skysail.errors.FailedPrecondition as error:
                assert time.monotonic() - begin < 1
                return str(error).partition(":")[0]

        async def main():
            async with new_client(skysail.AsyncClient) as connected:
                await connected.predict("fork-total", [1, 2])
                wait(in_child(lambda: refusal(lambda: ask(client))))
                wait(in_child(lambda: refusal(lambda: ask(new_client()))))
                wait(in_child(lambda: refusal(lambda: connected.predict("a", 1).send(None))))
                print((await connected.predict("fork-total", [1, 2])).output)
            wait(in_child(lambda: ask(client)))

        asyncio.run(main())
        print(ask(client))
    """
    # The fork handlers of gRPC would start threads in the child, which may crash it.
    lines = run_script(script, GRPC_ENABLE_FORK_SUPPORT="0")
    refused = "cannot connect in this process"
    assert lines == [refused, refused, refused, "3.0", "3.0", "3.0"]

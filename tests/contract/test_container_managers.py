"""The contract of container managers; see skysail_testing.container_managers."""

import asyncio
import hashlib
import importlib.metadata
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import pytest

from skysail_common.errors import ReplicaNotFound
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container, PrepareFailed
from skysail_testing.artifact_server import ArtifactServer
from skysail_testing.container_managers import (
    BACKENDS,
    M1,
    Backend,
    KubernetesBackend,
    ManagerHarness,
    ask,
    make_wheel,
    open_harness,
    running_backend,
)

M2 = ModelVersion("m", "2")

# pip and uv print this about the same wheel.
_INSTALLED = re.compile(r"Successfully installed skytestwheel-1\.0|\+ skytestwheel==1\.0")


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.kubernetes] * (name == "kubernetes"))
        for name in BACKENDS
    ]
)
async def backend_and_server(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Backend, ArtifactServer]]:
    reason = BACKENDS[request.param].why_not()
    if reason:
        pytest.skip(reason)
    async with running_backend(request.param, tmp_path / "d") as backend_and_server:
        yield backend_and_server


@pytest.fixture
async def harness(backend_and_server) -> AsyncIterator[ManagerHarness]:
    async with open_harness(*backend_and_server) as harness:
        yield harness


def echo(texts):
    return list(texts)


async def test_prepare_without_requirements_is_quick(harness: ManagerHarness):
    spec = harness.version(echo)
    begin = monotonic()
    for _ in range(2):
        await harness.manager.prepare(spec, lambda line: None)
    assert monotonic() - begin < 5


async def test_missing_package_is_named_and_leaves_nothing(harness: ManagerHarness):
    spec = harness.version(echo, requirements=["no-such-package-of-skysail==1.0"])
    for _ in range(2):
        lines: list[str] = []
        with pytest.raises(PrepareFailed, match="no-such-package-of-skysail") as caught:
            await harness.manager.prepare(spec, lines.append)
        assert caught.value.message.startswith("cannot install the requirements: ")
        assert "no-such-package-of-skysail" in caught.value.log_tail
        assert any("no-such-package-of-skysail" in line for line in lines)
    await harness.manager.sweep(lambda: [])


async def test_a_package_is_installed_once_and_can_be_imported(backend_and_server, tmp_path: Path):
    def answer(texts):
        import skytestwheel

        return [skytestwheel.ANSWER for _ in texts]

    wheel = make_wheel(tmp_path, "skytestwheel", "ANSWER = 'from the wheel'\n")
    async with open_harness(*backend_and_server) as harness:
        spec = harness.version(answer, requirements=[harness.backend.requirement(wheel)])
        lines: list[str] = []
        await harness.manager.prepare(spec, lines.append)
        assert any(_INSTALLED.search(line) for line in lines)
        # The installed package no longer needs the wheel.
        wheel.unlink()
        container = await harness.start_ready(spec)
        assert await ask(container, "x") == ["from the wheel"]
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("skytestwheel")
        await harness.manager.stop(container.container_id, 5.0)
    async with open_harness(*backend_and_server) as harness:
        await harness.manager.prepare(spec, lambda line: None)
        # A version with equal requirements does not need it either.
        await harness.manager.prepare(
            harness.version(echo, M2, [harness.backend.requirement(wheel)]), lambda line: None
        )
        await harness.manager.sweep(lambda: [spec])
        await harness.manager.prepare(spec, lambda line: None)
        await harness.manager.sweep(lambda: [])
        with pytest.raises(PrepareFailed):
            await harness.manager.prepare(spec, lambda line: None)


async def test_requirements_may_use_the_syntax_of_a_file(harness: ManagerHarness, tmp_path: Path):
    wheel = make_wheel(tmp_path, "skytestwheel", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lines = [
        *harness.backend.find_links(tmp_path),
        "# Pinned after a test.",
        "skytestwheel==1.0 \\",
        f"    --hash=sha256:{digest}",
    ]
    log: list[str] = []
    await harness.manager.prepare(harness.version(echo, requirements=lines), log.append)
    assert any(_INSTALLED.search(line) for line in log)


async def test_concurrent_preparations_both_succeed(harness: ManagerHarness, tmp_path: Path):
    wheel = make_wheel(tmp_path, "skytestwheel", "")
    spec = harness.version(echo, requirements=[harness.backend.requirement(wheel)])
    await asyncio.gather(*(harness.manager.prepare(spec, lambda line: None) for _ in range(2)))


async def test_cancelled_preparation_can_be_retried(harness: ManagerHarness, tmp_path: Path):
    wheel = make_wheel(tmp_path, "skytestwheel", "")
    spec = harness.version(echo, requirements=[harness.backend.requirement(wheel)])
    begun = asyncio.Event()
    work = asyncio.create_task(harness.manager.prepare(spec, lambda line: begun.set()))
    await asyncio.wait_for(begun.wait(), 30)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await harness.manager.prepare(spec, lambda line: None)


async def test_life_cycle_of_a_container(harness: ManagerHarness):
    started = await harness.start(harness.version(echo), index=3)
    assert started.state is ReplicaState.STARTING
    assert started.replica_id == ReplicaId(M1, 3)
    (listed,) = await harness.live()
    assert listed.container_id == started.container_id

    ready = await harness.reported(started, ReplicaState.READY)
    assert ready.endpoint
    assert ready.started_at is not None
    (listed,) = await harness.live()
    assert listed == ready
    assert dict(listed.labels).items() >= {
        "cluster": harness.backend.cluster_name, "model": "m", "version": "1", "replica": "3",
    }.items()  # fmt: skip
    assert await ask(ready, "a", "ä") == ["a", "ä"]
    assert any("replica is ready" in line for line in await harness.log(ready))

    await harness.manager.stop(ready.container_id, 10.0)
    stopped = await harness.ended(ready)
    assert stopped.state is ReplicaState.STOPPED
    assert harness.states(ready)[-2:] == [ReplicaState.DRAINING, ReplicaState.STOPPED]
    assert await harness.live() == []
    # A stop of a missing container does nothing.
    await harness.manager.stop(ready.container_id, 10.0)
    await harness.manager.stop("never-was", 10.0)


async def test_container_stopped_while_loading_ends_at_once(harness: ManagerHarness):
    started = await harness.start(harness.version(echo))
    begin = monotonic()
    await harness.manager.stop(started.container_id, 30.0)
    assert monotonic() - begin < 10
    assert (await harness.ended(started)).state is ReplicaState.STOPPED


async def test_model_with_its_own_signal_handlers_keeps_running(harness: ManagerHarness):
    def alarmed(texts):
        import signal
        import subprocess
        import time

        seen = []
        for number in (signal.SIGALRM, signal.SIGCHLD):
            signal.signal(number, lambda number, _: seen.append(number))
        subprocess.run(["true"], check=True)
        signal.raise_signal(signal.SIGALRM)
        # The kernel may give a signal to a thread that has to wait for a core.
        for _ in range(5000):
            if len(seen) > 1:
                break
            time.sleep(0.001)
        return [str(len(seen) > 1) for _ in texts]

    container = await harness.start_ready(harness.version(alarmed))
    for _ in range(20):
        assert await ask(container, "x") == ["True"]
    assert harness.states(container)[-1] is ReplicaState.READY
    await harness.manager.stop(container.container_id, 10.0)
    assert (await harness.ended(container)).state is ReplicaState.STOPPED


async def test_stop_lets_a_query_and_its_child_processes_finish(harness: ManagerHarness):
    def through_a_helper(texts):
        import subprocess
        import sys
        import time

        program = "import sys; sys.stdout.write(sys.stdin.read()[::-1])"
        helper = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        print("at work", flush=True)
        time.sleep(0.5)
        output, _ = helper.communicate("".join(texts).encode())
        return [output.decode()]

    container = await harness.start_ready(harness.version(through_a_helper))
    asking = asyncio.create_task(ask(container, "abc"))
    async with aclosing(harness.manager.logs(container.container_id, 100, follow=True)) as lines:
        async for line in lines:
            if "at work" in line:
                break
    await harness.manager.stop(container.container_id, 20.0)
    assert await asking == ["cba"]
    assert (await harness.ended(container)).state is ReplicaState.STOPPED


async def test_container_that_does_not_drain_in_time_is_killed(harness: ManagerHarness):
    def never_ends(texts):
        import time

        print("at work", flush=True)
        time.sleep(600)

    container = await harness.start_ready(harness.version(never_ends))
    asking = asyncio.create_task(ask(container, "abc"))
    async with aclosing(harness.manager.logs(container.container_id, 100, follow=True)) as lines:
        async for line in lines:
            if "at work" in line:
                break
    begin = monotonic()
    await harness.manager.stop(container.container_id, 0.5)
    assert 0.5 <= monotonic() - begin < 10
    assert (await harness.ended(container)).state is ReplicaState.STOPPED
    await asyncio.gather(asking, return_exceptions=True)


class CannotBeLoaded:
    def __call__(self, x):
        return x

    def __reduce__(self):
        # A leftover thread does not keep the process alive either.
        thread = "__import__('threading').Thread(target=__import__('time').sleep, args=(600,))"
        return eval, (f"({thread}.start(), {{}}['the weights'])",)


async def test_load_failure_is_permanent_with_its_traceback(harness: ManagerHarness):
    container = await harness.start(harness.version(CannotBeLoaded()))
    failed = await harness.ended(container)
    assert failed.state is ReplicaState.FAILED
    assert failed.is_permanent, (failed.reason, failed.log_tail)
    assert failed.reason.startswith("loading the model failed: KeyError: 'the weights'")
    assert "loading the model failed: KeyError: 'the weights'" in failed.log_tail
    assert "Traceback (most recent call last)" in failed.log_tail
    assert ReplicaState.READY not in harness.states(container)
    assert await harness.live() == []
    assert any("the weights" in line for line in await harness.log(failed))


async def test_warm_up_failure_is_permanent(harness: ManagerHarness, tmp_path: Path):
    def warm_once(x):
        import os

        if "SKY_TEST_HERE" not in os.environ:
            raise RuntimeError("no GPU")
        return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKY_TEST_HERE", "1")
        spec = harness.version(warm_once, example=[[1.0]])
    # The replica starts with its package.
    failed, _ = await asyncio.gather(
        harness.start(spec), harness.start_ready(spec, 1, environment={"SKY_TEST_HERE": "1"})
    )
    failed = await harness.ended(failed)
    assert failed.is_permanent
    assert "the function failed on the warm-up query: RuntimeError: no GPU" in failed.log_tail


async def test_foreign_token_fails_but_not_permanently(harness: ManagerHarness):
    if not harness.backend.fetches_artifacts:
        pytest.skip("its containers have their artifact and no use for a token")
    container = await harness.start(harness.version(echo), token="0" * 64)
    failed = await harness.ended(container)
    assert failed.state is ReplicaState.FAILED
    assert not failed.is_permanent
    assert "the token does not belong to a replica of 'm:1'" in failed.log_tail


async def test_killed_container_fails_with_the_signal(harness: ManagerHarness):
    container = await harness.start_ready(harness.version(echo))
    await harness.backend.kill(container)
    failed = await harness.ended(container)
    assert failed.state is ReplicaState.FAILED
    assert not failed.is_permanent
    assert "SIGKILL" in failed.reason
    assert "replica is ready" in failed.log_tail
    assert await harness.live() == []


async def test_exited_container_fails_with_its_status(harness: ManagerHarness):
    def leaves(texts):
        import os

        os._exit(7)

    container = await harness.start_ready(harness.version(leaves))
    asking = asyncio.create_task(ask(container, "x"))
    failed = await harness.ended(container)
    assert failed.state is ReplicaState.FAILED
    assert "7" in failed.reason
    assert not failed.is_permanent
    await asyncio.gather(asking, return_exceptions=True)


async def test_logs_have_a_tail_and_can_be_followed(harness: ManagerHarness):
    def talks(texts):
        import sys

        for text in texts:
            print(f"said {text}", flush=True)
        if "bye" in texts:
            sys.stderr.write("no line feed at the end")
            sys.stderr.flush()
        return texts

    container = await harness.start_ready(harness.version(talks))
    await ask(container, "one", "two", "three")
    assert (await harness.log(container, 2)) == ["said two", "said three"]
    followed: list[str] = []

    async def follow() -> None:
        async for line in harness.manager.logs(container.container_id, 1, follow=True):
            followed.append(line)
            heard.set()

    heard = asyncio.Event()
    following = asyncio.create_task(follow())
    await asyncio.wait_for(heard.wait(), 10)
    await ask(container, "four", "bye")
    await harness.backend.kill(container)
    await asyncio.wait_for(following, 20)
    assert followed == ["said three", "said four", "said bye", "no line feed at the end"]


async def test_unknown_container_has_no_log(harness: ManagerHarness):
    for container_id in ("never-was", "", "..", "../../etc"):
        with pytest.raises(ReplicaNotFound):
            await anext(harness.manager.logs(container_id, 10, follow=True))


async def test_next_manager_adopts_containers_without_a_gap(backend_and_server):
    def who(texts):
        import os

        return [str(os.getpid()) for _ in texts]

    async with open_harness(*backend_and_server) as first:
        spec = first.version(who)
        kept, killed = await asyncio.gather(
            first.start_ready(spec, index=0), first.start_ready(spec, index=1)
        )
        pids = await ask(kept, "?"), await ask(killed, "?")
    async with open_harness(*backend_and_server) as second:
        found = {box.container_id: box for box in await second.live()}
        assert set(found) == {kept.container_id, killed.container_id}
        for before in (kept, killed):
            now = found[before.container_id]
            assert now.state is ReplicaState.READY
            assert (now.endpoint, now.replica_id) == (before.endpoint, before.replica_id)
            assert (now.labels, now.started_at) == (before.labels, before.started_at)
        assert (await ask(kept, "?"), await ask(killed, "?")) == pids
        assert any("replica is ready" in line for line in await second.log(kept))

        await second.backend.kill(killed)
        failed = await second.ended(killed)
        assert failed.state is ReplicaState.FAILED
        assert failed.reason
        assert not failed.is_permanent
        await second.manager.stop(kept.container_id, 10.0)
        assert (await second.ended(kept)).state is ReplicaState.STOPPED
        assert await second.live() == []
        assert ReplicaState.STARTING not in second.states(kept)


async def test_starting_container_is_adopted_and_becomes_ready(backend_and_server):
    async with open_harness(*backend_and_server) as first:
        started = await first.start(first.version(echo))
    async with open_harness(*backend_and_server) as second:
        (found,) = await second.live()
        assert found.container_id == started.container_id
        if found.state is not ReplicaState.READY:
            found = await second.reported(found, ReplicaState.READY)
        assert await ask(found, "x") == ["x"]


async def test_container_that_ended_unwatched_is_not_live(backend_and_server):
    async with open_harness(*backend_and_server) as first:
        container = await first.start_ready(first.version(echo))
    await backend_and_server[0].kill(container)
    await backend_and_server[0].clean_up()
    async with open_harness(*backend_and_server) as second:
        # The kubelet may notice the end later.
        if isinstance(backend_and_server[0], KubernetesBackend) and await second.live():
            await second.ended(container)
        assert await second.live() == []
        await second.start_ready(second.version(echo))


async def until_listed(harness: ManagerHarness, *names: str) -> None:
    """Wait until exactly these containers live; a kubelet notices an end after a while."""
    end = monotonic() + 30
    while {box.container_id for box in await harness.live()} != set(names):
        assert monotonic() < end
        await asyncio.sleep(0.2)


async def test_list_finds_a_missed_end(harness: ManagerHarness):
    spec = harness.version(echo)
    lost, other = await asyncio.gather(
        harness.start_ready(spec), harness.start_ready(spec, index=1)
    )
    harness.backend.lose_events(harness.manager)
    await harness.backend.kill(lost)
    await until_listed(harness, other.container_id)
    # The manager reports the end as after an event.
    failed = await harness.ended(lost)
    assert failed.state is ReplicaState.FAILED
    assert "SIGKILL" in failed.reason
    assert "replica is ready" in failed.log_tail
    assert await ask(other, "x") == ["x"]
    await harness.manager.stop(lost.container_id, 10.0)
    assert harness.states(lost).count(ReplicaState.FAILED) == 1


async def test_list_finds_a_lost_container(harness: ManagerHarness):
    container = await harness.start_ready(harness.version(echo))
    known = vars(harness.manager)["_replicas"]
    del known[container.container_id]
    await until_listed(harness, container.container_id)
    await harness.backend.kill(container)
    assert (await harness.ended(container)).state is ReplicaState.FAILED
    assert await harness.live() == []


async def test_watch_survives_an_error_about_one_container(harness: ManagerHarness, monkeypatch):
    spec = harness.version(echo)
    strange, other = await asyncio.gather(
        harness.start_ready(spec), harness.start_ready(spec, index=1)
    )
    changes = vars(harness.manager)["_changes"]
    publish = changes.publish
    is_tried = asyncio.Event()

    def published(container: Container) -> None:
        if container.container_id == strange.container_id:
            is_tried.set()
            raise KeyError("a bug")
        publish(container)

    monkeypatch.setattr(changes, "publish", published)
    await harness.backend.kill(strange)
    await asyncio.wait_for(is_tried.wait(), 30)
    await harness.backend.kill(other)
    assert (await harness.ended(other)).state is ReplicaState.FAILED
    await until_listed(harness)
    # The manager starts and reports other containers as before.
    assert (await harness.start_ready(spec, index=2)).replica_id.index == 2


async def test_sweep_removes_unneeded_and_keeps_needed_objects(harness: ManagerHarness):
    kept, gone = harness.version(CannotBeLoaded()), harness.version(CannotBeLoaded(), M2)
    first, other, alien, live = await asyncio.gather(
        harness.start(kept),
        harness.start(kept, index=1),
        harness.start(gone),
        harness.start(harness.version(echo, ModelVersion("m", "3"))),
    )
    await asyncio.gather(*(harness.ended(each) for each in (first, other, alien)))
    second = await harness.ended(await harness.start(kept))
    live = await harness.reported(live, ReplicaState.READY)
    await harness.manager.sweep(lambda: [kept])
    # The log of the last failure of each replica is kept.
    for container in (second, other):
        assert any("the weights" in line for line in await harness.log(container))
    for container in (first, alien):
        with pytest.raises(ReplicaNotFound):
            await harness.log(container)
    assert await ask(live, "x") == ["x"]
    await harness.manager.sweep(lambda: [])
    with pytest.raises(ReplicaNotFound):
        await harness.log(second)
    assert [box.container_id for box in await harness.live()] == [live.container_id]
    assert await ask(live, "x") == ["x"]


async def test_environment_and_threads_reach_the_replica(harness: ManagerHarness):
    def environment(texts):
        import json
        import os

        return [json.dumps(dict(os.environ))]

    spec = harness.version(environment)
    given = {"PLAIN": "b", "SPACES": " a  b ", "QUOTES": "'\"$HOME`", "UNICODE": "ä\n", "EMPTY": ""}
    container, own = await asyncio.gather(
        harness.start_ready(spec, environment=given, num_threads=3),
        harness.start_ready(spec, index=1, environment={"OMP_NUM_THREADS": "5"}),
    )
    (text,) = await ask(container, "?")
    seen = json.loads(text)
    assert {name: seen.get(name) for name in given} == given
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        assert seen[name] == "3"
    (text,) = await ask(own, "?")
    assert json.loads(text)["OMP_NUM_THREADS"] == "5"


async def test_query_beyond_the_memory_limit_fails_and_the_replica_survives(
    harness: ManagerHarness,
):
    def allocates(texts):
        return [str(len(bytearray(int(text) * 1024 * 1024))) for text in texts]

    container = await harness.start_ready(harness.version(allocates), memory_mib=1024)
    small, large, again = await ask(container, "1", "4000", "2")
    assert (small, again) == (str(1024**2), str(2 * 1024**2))
    assert large.message.startswith("MemoryError")
    assert await ask(container, "1") == [str(1024**2)]

"""Guarantees of the Docker container manager alone."""

import asyncio
import json
import os
import platform
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from skysail_common.errors import ContainerManagerUnavailable
from skysail_common.identifiers import ModelVersion
from skysail_common.states import ReplicaState
from skysail_management.containers.base import PrepareFailed
from skysail_management.settings import ManagementSettings
from skysail_testing.artifact_server import ArtifactServer
from skysail_testing.container_managers import (
    DockerBackend,
    ManagerHarness,
    ask,
    docker_gateways,
    make_wheel,
    open_harness,
    run_docker,
    running_backend,
    why_no_docker,
)
from skysail_testing.docker_engines import (
    OwnEngine,
    in_container,
    own_engine,
    registry,
    why_no_own_engine,
)

M2 = ModelVersion("m", "2")
LARGE_BYTES = 80 * 1024 * 1024
IMAGE = ManagementSettings.model_fields["docker_image"].default


@pytest.fixture(autouse=True)
def _docker() -> None:
    if why_no_docker():
        pytest.skip(why_no_docker())


@pytest.fixture
async def backend_and_server(tmp_path: Path) -> AsyncIterator[tuple[DockerBackend, ArtifactServer]]:
    async with running_backend("docker", tmp_path / "d") as (backend, server):
        assert isinstance(backend, DockerBackend)
        yield backend, server


@pytest.fixture
async def harness(backend_and_server) -> AsyncIterator[ManagerHarness]:
    async with open_harness(*backend_and_server) as harness:
        yield harness


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    """An engine that may be stopped and filled."""
    if why_no_own_engine():
        pytest.skip(why_no_own_engine())
    with own_engine() as engine:
        yield engine


def echo(texts):
    return list(texts)


def other_content(texts):
    return [text.upper() for text in texts]


def images_of(harness: ManagerHarness) -> list[str]:
    label = f"label=ai.skysail.data-dir={harness.backend.directory.resolve()}"
    return run_docker("images", "--quiet", "--filter", label).split()


async def test_model_writes_only_scratch_and_has_no_rights(backend_and_server):
    def tries(texts):
        import json
        import os

        found = {}
        for path in (
            "/",
            "/etc",
            "/opt/skysail",
            "/var/tmp",
            "/dev",
            "/proc/sys",
            "/run/skysail/..",
        ):
            try:
                open(f"{path}/evil", "w").close()
                found[path] = "written"
            except OSError as error:
                found[path] = error.strerror
        for path in ("/tmp", "/work"):
            try:
                with open(f"{path}/large", "wb") as file:
                    for _ in range(64):
                        file.write(bytes(1024 * 1024))
                found[path] = "64 MiB written"
            except OSError as error:
                found[path] = error.strerror
            os.unlink(f"{path}/large")
        with open("/proc/self/status") as file:
            status = dict(line.strip().split(":\t", 1) for line in file)
        found["rights"] = [status["CapEff"], status["CapBnd"], status["NoNewPrivs"]]
        found["user"] = os.getuid()
        return [json.dumps(found)]

    backend, server = backend_and_server
    backend.values = {"docker_scratch_mib": 32}
    async with open_harness(backend, server) as harness:
        (text,) = await ask(await harness.start_ready(harness.version(tries)), "?")
    found = json.loads(text)
    full, refused = "No space left on device", {"Read-only file system", "Permission denied"}
    assert (found.pop("/tmp"), found.pop("/work")) == (full, full)
    assert found.pop("rights") == ["0" * 16, "0" * 16, "1"]
    assert found.pop("user") == (os.getuid() or 65532)
    assert found.pop("/proc/sys") in {*refused, "No such file or directory"}
    assert set(found.values()) <= refused, found


async def test_a_model_cannot_see_the_host(harness: ManagerHarness, tmp_path: Path):
    def looks(texts):
        import json
        import os

        found = {path: os.path.exists(path) for path in texts}
        found["processes"] = [name for name in os.listdir("/proc") if name.isdigit()]
        found["environment"] = " ".join(os.environ)
        return [json.dumps(found), *texts[1:]]

    (tmp_path / "secret").write_text("hush")
    container = await harness.start_ready(harness.version(looks))
    secret = str(tmp_path / "secret")
    text, *_ = await ask(container, secret, "/var/run/docker.sock", str(harness.backend.directory))
    found = json.loads(text)
    assert found.pop("environment").count("TOKEN") == 0
    # The two processes are the reaper and the model server.
    assert len(found.pop("processes")) == 2
    assert set(found.values()) == {False}
    # Other users of this machine cannot reach its socket.
    directory = Path(container.endpoint.removeprefix("unix:")).parent
    assert directory.stat().st_mode & 0o777 == 0o700


async def test_model_reaches_the_internet_only_if_allowed(backend_and_server):
    def dials(texts):
        import socket

        answers = []
        for text in texts:
            host, port = text.rsplit(":", 1)
            try:
                socket.create_connection((host, int(port)), timeout=3).close()
                answers.append("reached")
            except OSError as error:
                answers.append(type(error).__name__)
        return answers

    backend, server = backend_and_server
    (gateway,) = docker_gateways("bridge")
    with socket.create_server((gateway, 0)) as listening:
        here = f"{gateway}:{listening.getsockname()[1]}"
        async with open_harness(backend, server) as harness:
            spec = harness.version(dials)
            alone = await harness.start_ready(spec)
            assert await ask(alone, here, "1.1.1.1:53", "127.0.0.1:22") == [
                "OSError", "OSError", "ConnectionRefusedError",
            ]  # fmt: skip
        backend.values = {"docker_internet": True}
        async with open_harness(backend, server) as harness:
            assert await ask(await harness.start_ready(spec, 1), here) == ["reached"]


async def test_fork_bomb_is_bounded_and_the_replica_survives(backend_and_server):
    def forks(texts):
        import os
        import signal
        import time

        children = []
        try:
            while len(children) < 2000:
                pid = os.fork()
                if pid == 0:
                    time.sleep(60)
                    os._exit(0)
                children.append(pid)
        except OSError:
            pass
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return [str(len(children)) for _ in texts]

    backend, server = backend_and_server
    backend.values = {"docker_max_processes": 64}
    async with open_harness(backend, server) as harness:
        container = await harness.start_ready(harness.version(forks))
        for _ in range(2):
            (number,) = await ask(container, "?")
            assert 10 < int(number) < 64


async def test_a_replica_has_the_cpus_of_its_deployment(harness: ManagerHarness):
    def quota(texts):
        from pathlib import Path

        files = (Path("/sys/fs/cgroup", each) for each in ("cpu.max", "cpu/cpu.cfs_quota_us"))
        return [next(each.read_text().split()[0] for each in files if each.exists())] * len(texts)

    container = await harness.start_ready(harness.version(quota), cpus=0.5)
    assert await ask(container, "?") == ["50000"]


async def test_out_of_memory_reason_names_the_limit(backend_and_server):
    def hoards(texts):
        return [str(len(b"x" * (int(text) * 1024 * 1024))) for text in texts]

    backend, server = backend_and_server
    backend.values = {"docker_memory_mib": 200}
    async with open_harness(backend, server) as harness:
        container = await harness.start_ready(harness.version(hoards))
        assert await ask(container, "10") == [str(10 * 1024**2)]
        asking = asyncio.create_task(ask(container, "400"))
        failed = await harness.ended(container)
        assert failed.state is ReplicaState.FAILED
        assert failed.reason == "ran out of memory: its limit is 200 MiB"
        assert not failed.is_permanent
        await asyncio.gather(asking, return_exceptions=True)


async def test_model_server_killed_inside_its_container_has_failed(harness: ManagerHarness):
    def who(texts):
        import os

        return [str(os.getpid()) for _ in texts]

    container = await harness.start_ready(harness.version(who))
    (pid,) = await ask(container, "?")
    await in_container(container.container_id, "python", "-c", f"import os; os.kill({pid}, 9)")
    failed = await harness.ended(container)
    assert failed.state is ReplicaState.FAILED
    assert "SIGKILL" in failed.reason


async def test_removed_container_has_failed(harness: ManagerHarness):
    container = await harness.start_ready(harness.version(echo))
    await asyncio.to_thread(run_docker, "rm", "--force", container.container_id)
    assert (await harness.ended(container)).state is ReplicaState.FAILED
    assert await harness.live() == []


async def test_image_is_built_once_and_packages_are_shared(harness: ManagerHarness, tmp_path: Path):
    wheel = make_wheel(tmp_path, "skytestwheel", "")
    spec = harness.version(echo, requirements=[str(wheel)])
    await harness.manager.prepare(spec, lambda line: None)
    for version in (spec, harness.version(echo, M2, [str(wheel)])):
        lines: list[str] = []
        begin = monotonic()
        await harness.manager.prepare(version, lines.append)
        assert monotonic() - begin < 1
        assert all("ready" in line for line in lines)
    assert len(set(images_of(harness))) == 2
    # Other content needs a new image, not a new installation.
    lines = []
    await harness.manager.prepare(harness.version(other_content, M2, [str(wheel)]), lines.append)
    assert len(set(images_of(harness))) == 3
    assert not any("Collecting" in line or "Processing" in line for line in lines)
    # An image that a version needs during the sweep stays.
    answers = iter([[], *[[spec]] * 20])
    await harness.manager.sweep(lambda: next(answers))
    assert len(set(images_of(harness))) == 2
    await harness.manager.sweep(lambda: [])
    assert images_of(harness) == []


def describes_weights(texts):
    """Read the weights, which travel beside the pickle; only replicas call it."""
    import pathlib

    directory = pathlib.Path("/opt/skysail/artifact/files")
    with open(directory / "weights.bin", "rb") as file:
        end = file.seek(0, 2)
    try:
        open(directory / "weights.bin", "r+b").close()
        access = "writable"
    except OSError as error:
        access = error.strerror
    return [f"{end} {access} {(directory / 'small.txt').read_text()}"]


def large_files(directory: Path) -> dict[str, Path]:
    """Return files for a model, one of them large and without blocks on the disk."""
    (directory / "small.txt").write_text("small")
    with (directory / "weights.bin").open("wb") as file:
        file.truncate(LARGE_BYTES)
    return {name: directory / name for name in ("small.txt", "weights.bin")}


def layers_of(image: str) -> dict[str, int]:
    """Return the bytes of each step of an image by its id."""
    shown = run_docker(
        "history", "--no-trunc", "--human=false", "--format", "{{.ID}} {{.Size}}", image
    )
    return {line.split()[0]: int(line.split()[1]) for line in shown.splitlines()}


def size_of_images(harness: ManagerHarness) -> int:
    """Return the bytes that the images of versions hold beyond their base."""
    layers: dict[str, int] = {}
    for image in images_of(harness):
        layers |= layers_of(image)
    base = layers_of(IMAGE)
    return sum(size for image_id, size in layers.items() if image_id not in base)


@pytest.mark.parametrize("is_mounted", [True, False])
async def test_large_files_are_in_no_image_or_in_one_that_versions_share(
    backend_and_server, tmp_path: Path, is_mounted: bool
):
    backend, server = backend_and_server
    backend.values = {"docker_mount_files": is_mounted}
    files = large_files(tmp_path)
    async with open_harness(backend, server) as harness:
        first = harness.version(describes_weights, input_type="strings", files=files)
        (tmp_path / "small.txt").write_text("other")
        second = harness.version(describes_weights, M2, input_type="strings", files=files)
        for spec, small in ((first, "small"), (second, "other")):
            replica = await harness.start_ready(spec)
            assert await ask(replica, "?") == [f"{LARGE_BYTES} Permission denied {small}"]
        held = await asyncio.to_thread(size_of_images, harness)
        assert held < 1_000_000 if is_mounted else LARGE_BYTES <= held < 1.1 * LARGE_BYTES
        # The image of the files stays while one version needs it.
        await harness.manager.sweep(lambda: [second])
        assert len(set(images_of(harness))) == (2 if is_mounted else 3)
        for container in await harness.live():
            await harness.manager.stop(container.container_id, 5.0)
        await harness.manager.sweep(lambda: [])
        assert images_of(harness) == []


async def test_failed_package_build_is_reported_with_its_line(
    harness: ManagerHarness, tmp_path: Path
):
    project = tmp_path / "skytestsource-1.0"
    project.mkdir()
    (project / "setup.py").write_text("raise RuntimeError('the compiler is on strike')\n")
    path = shutil.make_archive(str(project), "gztar", tmp_path, project.name)
    spec = harness.version(echo, requirements=[path])
    lines: list[str] = []
    with pytest.raises(PrepareFailed) as caught:
        await harness.manager.prepare(spec, lines.append)
    assert "cannot install the requirements" in caught.value.message
    assert "RuntimeError: the compiler is on strike" in caught.value.log_tail
    assert any("RuntimeError: the compiler is on strike" in line for line in lines)
    names = run_docker("ps", "--all", "--format", "{{.Names}}").split()
    # Other clusters may build on the same engine.
    assert [
        name for name in names if name.startswith(f"{harness.manager._images._repository}-")
    ] == []
    assert images_of(harness) == []


async def test_wrong_python_error_names_both_versions(harness: ManagerHarness):
    other = replace(harness.version(echo), python_version="3.7.16")
    with pytest.raises(PrepareFailed) as caught:
        await harness.manager.prepare(other, lambda line: None)
    here = platform.python_version().rpartition(".")[0]
    assert "was made with Python 3.7.16, and the image skysail-model-server" in caught.value.message
    assert f"has Python {here}: make it with {here}, or name an image" in caught.value.message


@contextmanager
def image_of_another_python() -> Iterator[str]:
    """Tag an image of the model server whose label names another Python."""
    name = f"skysail-other-python:{secrets.token_hex(4)}"
    container = run_docker("create", IMAGE).strip()
    try:
        run_docker("commit", "--change", "LABEL ai.skysail.python=3.7.16", container, name)
    finally:
        run_docker("rm", container)
    try:
        yield name
    finally:
        run_docker("rmi", "--force", name)


async def test_running_version_keeps_its_image_if_the_base_has_another_python(
    backend_and_server,
):
    backend, server = backend_and_server
    lines: list[str] = []
    async with open_harness(backend, server) as harness:
        version = harness.version(echo)
        await harness.manager.prepare(version, lines.append)
        image = harness.manager._images.image(version).name
    with image_of_another_python() as other:
        backend.values = {"docker_image": other}
        async with open_harness(backend, server) as harness:
            await harness.manager.sweep(lambda: [version])
            await harness.manager.prepare(version, lines.append)
            assert harness.manager._images.image(version).name == image
            assert f"m:1 keeps the image {image}: it needs Python" in lines[-1]
            assert lines[-1].endswith(f"and that of {other} is 3.7.16")
            # The other artifact has no earlier image.
            new = replace(version, artifact_sha256="00" * 32)
            with pytest.raises(PrepareFailed, match=r"has Python 3\.7: make it with 3\.7"):
                await harness.manager.prepare(new, lines.append)
            await harness.manager.sweep(list)
            assert images_of(harness) == []


async def test_missing_base_image_is_named_with_the_fix(backend_and_server):
    backend, server = backend_and_server
    backend.values = {"docker_image": "localhost:1/no-such-image:1"}
    async with open_harness(backend, server) as harness:
        with pytest.raises(PrepareFailed) as caught:
            await harness.manager.prepare(harness.version(echo), lambda line: None)
    assert "localhost:1/no-such-image:1" in caught.value.message
    assert "make images" in caught.value.message


async def test_missing_artifact_is_reported(harness: ManagerHarness):
    spec = harness.version(echo)
    shutil.rmtree(harness.backend.directory / "artifacts")
    with pytest.raises(PrepareFailed, match="lacks the artifact of m:1"):
        await harness.manager.prepare(spec, lambda line: None)


async def test_unreachable_engine_is_named_with_the_fix(tmp_path: Path):
    backend = DockerBackend(tmp_path)
    backend.values = {"docker_host": f"unix://{tmp_path}/none"}
    with pytest.raises(ContainerManagerUnavailable) as caught:
        await backend.make_manager().open()
    assert f"unix://{tmp_path}/none" in caught.value.message
    assert "DOCKER_HOST" in caught.value.message


async def test_clusters_on_one_engine_are_independent(backend_and_server, tmp_path: Path):
    async with running_backend("docker", tmp_path / "other") as other_backend:
        async with (
            open_harness(*backend_and_server) as harness,
            open_harness(*other_backend) as other,
        ):
            mine, theirs = await asyncio.gather(
                harness.start_ready(harness.version(echo)), other.start_ready(other.version(echo))
            )
            assert [each.container_id for each in await harness.live()] == [mine.container_id]
            await harness.manager.stop(theirs.container_id, 0.0)
            with pytest.raises(Exception, match="no log of"):
                await harness.log(theirs)
            await harness.manager.stop(mine.container_id, 5.0)
            await harness.manager.sweep(lambda: [])
            assert images_of(harness) == []
            assert images_of(other) != []
            assert await ask(theirs, "x") == ["x"]
        async with open_harness(*other_backend) as again:
            assert [each.container_id for each in await again.live()] == [theirs.container_id]


async def test_replica_on_a_network_is_reached_by_its_address(backend_and_server):
    def dials(texts):
        import socket

        try:
            socket.create_connection(("1.1.1.1", 53), timeout=3).close()
        except OSError as error:
            return [type(error).__name__]
        return ["reached"]

    backend, server = backend_and_server
    network = f"skysail-test-{secrets.token_hex(4)}"
    backend.values = {"docker_network": network}
    async with open_harness(backend, server) as harness:
        container = await harness.start_ready(harness.version(dials))
        assert container.endpoint.endswith(":8005")
        assert await ask(container, "?") != ["reached"]
    async with open_harness(backend, server) as harness:
        (found,) = await harness.live()
        assert (found.endpoint, found.state) == (container.endpoint, ReplicaState.READY)
        await harness.manager.stop(found.container_id, 5.0)
    assert network not in run_docker("network", "ls", "--format", "{{.Name}}")


async def test_close_leaves_nothing_on_the_engine_or_here(backend_and_server):
    backend, server = backend_and_server
    async with open_harness(backend, server) as harness:
        container = await harness.start_ready(harness.version(echo))
        await harness.manager.stop(container.container_id, 10.0)
        await harness.manager.sweep(lambda: [])
        assert images_of(harness) == []
        name = container.container_id
        assert name not in run_docker("ps", "--all", "--format", "{{.Names}}")
        assert list((backend.directory / "containers").iterdir()) == []
    assert not (backend.directory / "sockets").exists()


async def test_health_check_of_the_image_reports_readiness(harness: ManagerHarness):
    container = await harness.start_ready(harness.version(echo))
    command = ("python", "-m", "skysail_model_server.health_check")
    await in_container(container.container_id, *command)
    address = "SKYSAIL_MODEL_SERVER_LISTEN_ADDRESS=unix:/tmp/none"
    with pytest.raises(Exception, match="returned non-zero exit status 1"):
        await in_container(container.container_id, "env", address, *command)


async def test_containers_lost_with_the_engine_are_reported_after_its_restart(
    engine: OwnEngine, tmp_path: Path
):
    async with running_backend(
        "docker", tmp_path / "d", docker_host=engine.host
    ) as backend_and_server:
        async with open_harness(*backend_and_server) as harness:
            spec = harness.version(echo)
            container = await harness.start_ready(spec)
            await asyncio.to_thread(engine.stop)
            with pytest.raises(ContainerManagerUnavailable):
                await harness.manager.prepare(spec, lambda line: None)
            await asyncio.to_thread(engine.start)
            failed = await harness.ended(container)
            assert failed.state is ReplicaState.FAILED
            assert "replica is ready" in failed.log_tail
            # The manager works with the restarted engine.
            again = await harness.start_ready(spec)
            assert await ask(again, "x") == ["x"]
            await asyncio.to_thread(engine.command, "kill", "--signal", "KILL", again.container_id)
            assert "SIGKILL" in (await harness.ended(again)).reason


async def test_full_disk_is_reported_and_leaves_no_partial_image(engine: OwnEngine, tmp_path: Path):
    ballast = engine.data / "ballast"
    async with running_backend(
        "docker", tmp_path / "d", docker_host=engine.host
    ) as backend_and_server:
        async with open_harness(*backend_and_server) as harness:
            spec = harness.version(echo)
            free = os.statvfs(engine.data)
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, (free.f_bavail - 16) * free.f_frsize)
            try:
                with pytest.raises(PrepareFailed, match="no space left on device"):
                    await harness.manager.prepare(spec, lambda line: None)
            finally:
                ballast.unlink()
            assert await ask(await harness.start_ready(spec), "x") == ["x"]


async def test_images_reach_another_engine_through_a_registry(
    backend_and_server, engine: OwnEngine, tmp_path: Path
):
    if shutil.which("docker-registry") is None or shutil.which("htpasswd") is None:
        pytest.skip("docker-registry or htpasswd is not on this machine")
    backend, server = backend_and_server
    password = secrets.token_hex(8)
    with registry(tmp_path, "skysail", password) as address:
        backend.values = {"docker_registry": address, "docker_registry_user": "skysail"}
        async with open_harness(backend, server) as harness:
            spec = harness.version(echo)
            with pytest.raises(PrepareFailed, match=r"unauthorized|no basic auth") as caught:
                await harness.manager.prepare(spec, lambda line: None)
            assert address in caught.value.message
        backend.values["docker_registry_password"] = password
        async with open_harness(backend, server) as harness:
            lines: list[str] = []
            await harness.manager.prepare(spec, lines.append)
            assert any("Pushed" in line for line in lines)
        values = {**backend.values, "docker_host": engine.host}
        async with running_backend("docker", tmp_path / "e", **values) as other_backend:
            async with open_harness(*other_backend) as other:
                spec = other.version(echo)
                shutil.rmtree(other.backend.directory / "artifacts")
                lines = []
                await other.manager.prepare(spec, lines.append)
                assert any("Pull complete" in line for line in lines)
                assert await ask(await other.start_ready(spec), "x") == ["x"]

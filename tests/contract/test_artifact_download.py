"""Downloads of artifacts by processes: broken, resumed, shared by the replicas of a node."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skysail_common.errors import FailedPrecondition, SkysailError, Unavailable
from skysail_common.identifiers import ModelVersion
from skysail_common.states import ExitCode
from skysail_common.tokens import replica_token
from skysail_model_server import node_cache
from skysail_model_server.artifact_download import DownloadOptions, download_artifact
from skysail_model_server.management_downloads import ArtifactAccess
from skysail_model_server.unpacked_directories import sweep
from skysail_testing.artifact_server import (
    BLOB_CHUNK_BYTES,
    SECRET,
    ArtifactServer,
    ServedArtifact,
    served_artifact,
)
from skysail_testing.artifacts import contents_in
from skysail_testing.processes import eventually

VERSION = ModelVersion("m", "1")
LARGE = os.urandom(40 * BLOB_CHUNK_BYTES + 17)
FILES = {
    "data/large.bin": LARGE,
    "data/same.bin": LARGE,
    "files/empty": b"",
    **{f"modules/package/module_{index}.py": b"x = %d" % index for index in range(50)},
}
ARTIFACT = served_artifact(FILES)
ONE_FILE = served_artifact({"data/large.bin": LARGE})


@pytest.fixture
async def server() -> AsyncIterator[ArtifactServer]:
    server = ArtifactServer()
    await server.start()
    server.serve(VERSION, ARTIFACT)
    yield server
    server.gate.set()
    await server.stop()


def access_to(server: ArtifactServer, artifact: ServedArtifact = ARTIFACT) -> ArtifactAccess:
    token = replica_token(SECRET, VERSION, artifact.sha256)
    return ArtifactAccess(f"127.0.0.1:{server.port}", "m:1/0", token)


class Fetcher:
    """A process that fetches the artifact, like the init container of a pod."""

    def __init__(self, access: ArtifactAccess, directory: Path, cache: Path | None) -> None:
        settings = {
            "REPLICA_ID": access.replica_id,
            "TOKEN": access.token,
            "MANAGEMENT_ENDPOINT": access.endpoint,
            "ARTIFACT_DIR": str(directory),
            **({"CACHE_DIR": str(cache)} if cache else {}),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "skysail_model_server.fetch"],
            env={
                **os.environ,
                **{f"SKYSAIL_MODEL_SERVER_{name}": value for name, value in settings.items()},
            },
            stderr=subprocess.DEVNULL,
        )

    async def end(self) -> int:
        """Return the exit status."""
        return await asyncio.to_thread(self.process.wait, 60)

    async def kill(self) -> None:
        self.process.kill()
        await self.end()


class Node:
    """A node whose processes fetch into directories of their own."""

    def __init__(self, directory: Path, server: ArtifactServer) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.artifact = ARTIFACT
        self.fetchers: list[Fetcher] = []
        self._server = server

    def fetch(self, name: str, *, has_cache: bool = True) -> Fetcher:
        """Begin to fetch into the directory with this name."""
        access = access_to(self._server, self.artifact)
        cache = self.cache if has_cache else None
        self.fetchers.append(Fetcher(access, self.directory / name, cache))
        return self.fetchers[-1]

    async def begun(self) -> None:
        """Return when a part of a blob is on the disk."""
        await asyncio.to_thread(
            eventually,
            lambda: any(each.stat().st_size for each in self.directory.rglob("partial/*")),
        )


@pytest.fixture
async def node(server: ArtifactServer, tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path, server)
    yield node
    for each in node.fetchers:
        await each.kill()


@pytest.fixture
async def held_up(server: ArtifactServer, node: Node) -> Fetcher:
    """A process that waits in the middle of a blob."""
    node.artifact = ONE_FILE
    server.serve(VERSION, ONE_FILE)
    server.gate.clear()
    fetcher = node.fetch("first")
    await node.begun()
    return fetcher


async def test_all_files_arrive_read_only_and_equal_ones_once(server: ArtifactServer, tmp_path):
    target = tmp_path / "artifact"
    artifact = await download_artifact(access_to(server), target, DownloadOptions(20))
    assert artifact.sha256 == ARTIFACT.sha256
    found = contents_in(target)
    assert found.pop("manifest.json") == ARTIFACT.content
    assert found == FILES
    assert (target / "data/large.bin").samefile(target / "data/same.bin")
    assert not (target / "data/large.bin").stat().st_mode & 0o222
    assert server.num_blob_bytes == ARTIFACT.num_blob_bytes
    assert not [each for each in target.iterdir() if each.name.startswith(".")]


async def test_a_broken_download_continues_where_it_stopped(server: ArtifactServer, tmp_path):
    server.max_call_bytes = 8 * BLOB_CHUNK_BYTES
    await download_artifact(access_to(server), tmp_path / "a", DownloadOptions(20))
    assert (tmp_path / "a/data/large.bin").read_bytes() == LARGE
    assert server.num_blob_bytes == ARTIFACT.num_blob_bytes


@pytest.mark.parametrize("has_cache", [True, False])
async def test_a_killed_download_resumes(server: ArtifactServer, node: Node, has_cache: bool):
    server.gate.clear()
    first = node.fetch("a", has_cache=has_cache)
    await node.begun()
    await first.kill()
    server.gate.set()
    assert await node.fetch("a", has_cache=has_cache).end() == ExitCode.OK
    assert contents_in(node.directory / "a")["data/large.bin"] == LARGE
    # Only chunks that were under way at the kill are sent twice.
    assert server.num_blob_bytes <= ARTIFACT.num_blob_bytes + 8 * BLOB_CHUNK_BYTES


async def test_the_replicas_of_a_node_fetch_a_blob_once(server: ArtifactServer, node: Node):
    fetchers = [node.fetch(name) for name in ("a", "b", "c")]
    assert [await each.end() for each in fetchers] == [ExitCode.OK] * 3
    assert server.num_blob_bytes == ARTIFACT.num_blob_bytes
    large = [node.directory / name / "data/large.bin" for name in ("a", "b", "c")]
    assert large[0].samefile(large[1])
    assert large[0].samefile(large[2])


async def test_pods_of_a_node_have_directories_in_its_cache(server: ArtifactServer, node: Node):
    pods = ["cache/unpacked/node/a", "cache/unpacked/node/b"]
    assert await node.fetch(pods[0]).end() == ExitCode.OK
    assert await node.fetch(pods[1]).end() == ExitCode.OK
    assert server.num_blob_bytes == ARTIFACT.num_blob_bytes
    for pod in pods:
        assert contents_in(node.directory / pod) == {**FILES, "manifest.json": ARTIFACT.content}
    # No model server holds the directory of the first pod; a later pod may remove it.
    assert (node.directory / f"{pods[0]}.idle").exists()
    assert not (node.directory / f"{pods[1]}.idle").exists()


async def test_a_replica_takes_over_from_one_that_dies(
    server: ArtifactServer, node: Node, held_up: Fetcher
):
    second = node.fetch("second")
    await asyncio.to_thread(eventually, (node.directory / "second" / "manifest.json").exists)
    assert server.num_blob_bytes == BLOB_CHUNK_BYTES
    await held_up.kill()
    server.gate.set()
    assert await second.end() == ExitCode.OK
    assert contents_in(node.directory / "second")["data/large.bin"] == LARGE
    assert server.num_blob_bytes <= len(LARGE) + BLOB_CHUNK_BYTES


async def test_a_replica_that_holds_up_a_blob_is_named(
    server: ArtifactServer, node: Node, held_up: Fetcher
):
    options = DownloadOptions(0.5, cache_dir=node.cache)
    with pytest.raises(Unavailable, match="another replica holds its lock"):
        await download_artifact(access_to(server, ONE_FILE), node.directory / "second", options)
    server.gate.set()
    assert await held_up.end() == ExitCode.OK


async def test_blobs_of_this_machine_are_linked(server: ArtifactServer, tmp_path):
    source = tmp_path / "blobs"
    source.mkdir()
    for sha256, content in ARTIFACT.blobs.items():
        (source / sha256).write_bytes(content)
    options = DownloadOptions(20, blob_source=source)
    artifact = await download_artifact(access_to(server), tmp_path / "a", options)
    assert server.num_blob_bytes == 0
    large = artifact.directory / "data/large.bin"
    assert large.samefile(source / ServedArtifact(LARGE).sha256)
    # A model that overwrites a small file changes its copy.
    small = artifact.directory / "modules/package/module_7.py"
    small.chmod(0o600)
    small.write_bytes(b"changed")
    assert (source / ServedArtifact(b"x = 7").sha256).read_bytes() == b"x = 7"


async def test_a_damaged_blob_of_this_machine_is_fetched(server: ArtifactServer, tmp_path):
    source = tmp_path / "blobs"
    source.mkdir()
    (source / ServedArtifact(LARGE).sha256).write_bytes(bytes(len(LARGE)))
    options = DownloadOptions(20, blob_source=source)
    await download_artifact(access_to(server), tmp_path / "a", options)
    assert (tmp_path / "a/data/large.bin").read_bytes() == LARGE


async def test_a_full_disk_is_named(server: ArtifactServer, tmp_path, monkeypatch):
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(node_cache, "place", full)
    with pytest.raises(FailedPrecondition, match=r"no space left on device; .* free disk space"):
        await download_artifact(access_to(server), tmp_path / "artifact", DownloadOptions(20))


async def test_a_directory_is_held_while_its_artifact_arrives(
    server: ArtifactServer, node: Node, held_up: Fetcher
):
    directory = node.directory / "first"
    sweep(node.directory / "other")
    assert not directory.with_name("first.idle").exists()
    await held_up.kill()
    sweep(node.directory / "other")
    assert directory.with_name("first.idle").exists()


async def test_a_blob_with_another_content_is_refused(server: ArtifactServer, tmp_path):
    blobs = {sha256: bytes(len(content)) for sha256, content in ARTIFACT.blobs.items()}
    server.serve(VERSION, ServedArtifact(ARTIFACT.content, blobs))
    with pytest.raises(SkysailError, match=r"arrived twice with another SHA-256"):
        await download_artifact(access_to(server), tmp_path / "a", DownloadOptions(20))


@pytest.mark.parametrize("is_longer", [True, False])
async def test_a_blob_of_another_size_is_refused(server: ArtifactServer, tmp_path, is_longer: bool):
    blobs = {
        sha256: content + b"x" if is_longer else content[:-1]
        for sha256, content in ARTIFACT.blobs.items()
    }
    server.serve(VERSION, ServedArtifact(ARTIFACT.content, blobs))
    with pytest.raises(SkysailError, match=r"more than its|ends after"):
        await download_artifact(access_to(server), tmp_path / "a", DownloadOptions(20))


async def test_a_silent_management_is_given_up(server: ArtifactServer, tmp_path):
    server.gate.clear()
    with pytest.raises(Unavailable, match=r"does not answer within 0.5 s: it sent nothing"):
        await download_artifact(access_to(server), tmp_path / "a", DownloadOptions(0.5))

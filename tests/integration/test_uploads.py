"""Uploads of models: interrupted, shared, repeated, too large."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

import skysail
from skysail import errors
from skysail.artifact.build import build_artifact
from skysail.calls import upload_progress
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import management_pb2_grpc
from skysail_testing.artifacts import zip_of
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.processes import eventually

CHUNK = 2**20
WEIGHTS_BYTES = 128 * 2**20
X = np.ones((1, 2))

# With "stop", the call of on_event blocks the upload at its first event.
_UPLOADER = """
import sys, time
import numpy as np
import skysail
from skysail.calls import upload_progress

# The first event must come before the end of the upload.
upload_progress._INTERVAL_S = 0.0
management, name, seed, size, how = sys.argv[1:]
weights = np.random.default_rng(int(seed)).integers(0, 2**62, int(size) // 8)

def on_event(event):
    if how == "stop" and event.step == "UPLOADING" and event.bytes_done < event.bytes_total:
        print(event.bytes_done, flush=True)
        time.sleep(600)

with skysail.Client(management) as client:
    client.deploy(lambda x: x + weights[0], name=name, example=np.ones((1, 2)), on_event=on_event)
"""


def uploader(
    cluster: RunningCluster, name: str, seed: int, how: str = "stop"
) -> "subprocess.Popen[bytes]":
    """Start a process that deploys a function with weights."""
    arguments = [cluster.management, name, str(seed), str(WEIGHTS_BYTES), how]
    return subprocess.Popen([sys.executable, "-c", _UPLOADER, *arguments], stdout=subprocess.PIPE)


def weights_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**62, WEIGHTS_BYTES // 8)


def blobs_in(data_dir: Path) -> dict[str, int]:
    """Return the size of each stored blob."""
    return {p.name: p.stat().st_size for p in (data_dir / "artifacts" / "blobs").iterdir()}


def partial_of(data_dir: Path, sha256: str) -> list[Path]:
    return list((data_dir / "artifacts" / "partial").glob(f"{sha256}-*"))


def sha256_of(weights: np.ndarray) -> str:
    return hashlib.sha256(weights).hexdigest()


def is_free(cluster: RunningCluster, sha256: str) -> bool:
    """Return whether another client could continue the upload of a blob."""
    with grpc.insecure_channel(cluster.management) as channel:
        blob = pb.BlobId(sha256=sha256, size_bytes=WEIGHTS_BYTES)
        stub = management_pb2_grpc.ManagementServiceStub(channel)
        found = stub.FindBlobs(pb.FindBlobsRequest(blobs=[blob]), timeout=10)
    return found.missing[0].stored_bytes > 0


def test_a_killed_upload_continues_where_it_ended(cluster: RunningCluster):
    weights = weights_of(1)
    sha256 = sha256_of(weights)
    with uploader(cluster, "killed", 1) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        process.kill()
    eventually(lambda: is_free(cluster, sha256))
    [partial] = partial_of(cluster.data_dir, sha256)
    stored, inode = partial.stat().st_size, partial.stat().st_ino
    assert 0 < stored < WEIGHTS_BYTES
    before = blobs_in(cluster.data_dir)
    events: list[skysail.DeployEvent] = []
    with cluster.client() as client:
        client.deploy(lambda x: x + weights[0], name="killed", example=X, on_event=events.append)
    blob = cluster.data_dir / "artifacts" / "blobs" / sha256
    # The same file was continued.
    assert blob.stat().st_ino == inode
    assert partial_of(cluster.data_dir, sha256) == []
    added = dict(blobs_in(cluster.data_dir).items() - before.items())
    sent = max(event.bytes_done for event in events)
    assert sent < sum(added.values()) - stored + CHUNK


def test_an_upload_outlasts_a_restart_of_management(tmp_path: Path):
    weights = weights_of(2)
    sha256 = sha256_of(weights)
    with running_cluster(tmp_path) as cluster, cluster.client() as client:
        inodes: list[int] = []

        def kill_management(event: skysail.DeployEvent) -> None:
            if event.step == "UPLOADING" and not inodes:
                [partial] = partial_of(tmp_path, sha256)
                inodes.append(partial.stat().st_ino)
                os.kill(cluster.service_pid("skysail_management"), signal.SIGKILL)

        client.deploy(lambda x: x + weights[0], name="m", example=X, on_event=kill_management)
        blob = tmp_path / "artifacts" / "blobs" / sha256
        assert [blob.stat().st_ino] == inodes


def test_a_second_version_with_the_same_weights_uploads_only_its_code(cluster: RunningCluster):
    weights = weights_of(3)
    with cluster.client() as client:
        client.deploy(lambda x: x + weights[0], name="shared", version="1", example=X)
        before = blobs_in(cluster.data_dir)
        events: list[skysail.DeployEvent] = []
        client.deploy(
            lambda x: x - weights[0],
            name="shared",
            version="2",
            example=X,
            on_event=events.append,
        )
    added = blobs_in(cluster.data_dir).items() - before.items()
    assert added
    assert sum(size for _, size in added) < 100_000
    assert not [event for event in events if event.step == "UPLOADING"]


def test_two_clients_upload_the_same_weights_at_once(cluster: RunningCluster):
    weights = weights_of(4)
    with uploader(cluster, "one", 4, "run") as one, uploader(cluster, "two", 4, "run") as two:
        assert (one.wait(120), two.wait(120)) == (0, 0)
    assert blobs_in(cluster.data_dir)[sha256_of(weights)] == WEIGHTS_BYTES
    assert partial_of(cluster.data_dir, sha256_of(weights)) == []


def test_weights_that_were_corrupted_on_disk_are_sent_again(cluster: RunningCluster):
    weights = weights_of(5)
    with cluster.client() as client:
        client.deploy(lambda x: x + weights[0], name="rotten-weights", version="1", example=X)
        blob = cluster.data_dir / "artifacts" / "blobs" / sha256_of(weights)
        blob.chmod(0o600)
        with blob.open("r+b") as file:
            file.write(b"rotten")
        client.deploy(lambda x: x - weights[0], name="rotten-weights", version="2", example=X)
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def test_weights_that_change_during_the_upload_are_refused(
    cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch
):
    # The first event must come before the end of the upload.
    monkeypatch.setattr(upload_progress, "_INTERVAL_S", 0.0)
    weights = weights_of(6)

    def change(event: skysail.DeployEvent) -> None:
        weights[-1] += 1

    with (
        cluster.client() as client,
        pytest.raises(
            errors.InvalidInput, match=r"an array of 134217728 bytes changed during the deploy"
        ),
    ):
        client.deploy(lambda x: x + weights[0], name="changing", example=X, on_event=change)


def test_a_function_that_changes_its_large_weights_is_refused(cluster: RunningCluster):
    weights = weights_of(8)

    def predict(x: np.ndarray) -> np.ndarray:
        weights[0] += 1
        return x + weights[0]

    with (
        cluster.client() as client,
        pytest.raises(errors.InvalidInput, match=r"let the function change a copy of it"),
    ):
        client.deploy(predict, name="counting", example=X)


def test_an_artifact_of_an_earlier_client_is_deployed(cluster: RunningCluster):
    content = zip_of(build_artifact(lambda x: x + 41, example=X))
    sha256 = hashlib.sha256(content).hexdigest()
    parts = [pb.UploadArtifactRequest(sha256=sha256), pb.UploadArtifactRequest(chunk=content)]
    with grpc.insecure_channel(cluster.management) as channel:
        stub = management_pb2_grpc.ManagementServiceStub(channel)
        stub.UploadArtifact(iter(parts), timeout=10)
        request = pb.DeployRequest(model="archived", version="1", artifact_sha256=sha256)
        steps = [event.step for event in stub.Deploy(request, timeout=60)]
    assert steps[-1] == pb.DEPLOY_STEP_DONE
    with cluster.client() as client:
        assert client.predict_batch("archived", X)[0].output.tolist() == [42, 42]


def test_a_model_above_the_limit_is_refused_before_the_upload(tmp_path: Path):
    weights = weights_of(7)
    flag = "SKYSAIL_MANAGEMENT_MAX_ARTIFACT_BYTES"
    os.environ[flag] = str(64 * 2**20)
    try:
        with running_cluster(tmp_path) as cluster, cluster.client() as client:
            with pytest.raises(errors.InvalidInput, match=r"at most 0.06 GiB are allowed"):
                client.deploy(lambda x: x + weights[0], name="m", example=X)
            assert blobs_in(tmp_path) == {}
    finally:
        del os.environ[flag]


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_model_that_does_not_fit_on_the_disk_is_refused_with_the_cause(tmp_path: Path):
    weights = weights_of(8)
    directory = tmp_path / "artifacts"
    directory.mkdir()
    with small_disk(directory), running_cluster(tmp_path) as cluster, cluster.client() as client:
        with pytest.raises(errors.FailedPrecondition, match=r"has 0.06 GiB free; free space"):
            client.deploy(lambda x: x + weights[0], name="m", example=X)
        some = weights[: 32 * 2**20 // 8]
        client.deploy(lambda x: x + some[0], name="m", example=X)

"""Data directories with odd and long names, read-only ones, and logs in them."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from skysail_common.process.log_rotation import EVERY_S, MAX_BYTES
from skysail_common.process.ready_line import parse_ready_line
from skysail_testing import models
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.commands import skysail_command
from skysail_testing.processes import eventually

ROW = np.ones((1, 3))
PORTS = [
    part for name in ("http", "grpc", "metrics", "management") for part in (f"--{name}-port", "0")
]


def test_a_name_may_have_special_characters_of_urls(tmp_path: Path):
    with running_cluster(tmp_path / "a b%20c#d?e\nf") as cluster:
        _serves(cluster)


def test_data_and_temporary_directories_may_have_long_names(tmp_path: Path, monkeypatch):
    long_temporary = tmp_path.joinpath(*["a-long-name"] * 10)
    long_temporary.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(long_temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with running_cluster(tmp_path.joinpath(*["b-long-name"] * 10)) as cluster:
        _serves(cluster)


def _serves(cluster: RunningCluster) -> None:
    with cluster.client() as client:
        client.deploy(models.double, name="double", version="1", example=ROW)
        assert client.predict("double", ROW[0]).output.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_read_only_directory_is_an_error_of_one_line(detach: list[str]):
    done = skysail_command("up", "--data-dir", "/proc/x", *PORTS, *detach)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("skysail: cannot write /proc/x")
    assert "--data-dir" in line


def test_a_closed_terminal_ends_a_cluster_in_the_foreground(tmp_path: Path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "skysail",
            "up",
            "--data-dir",
            str(tmp_path),
            *PORTS,
            "--ready-line",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    while parse_ready_line(process.stdout.readline().decode()) is None:
        assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert psutil.wait_procs(children, timeout=5)[1] == []


def test_logs_of_a_cluster_are_rotated(tmp_path: Path):
    with running_cluster(tmp_path) as cluster:
        logs = [cluster.data_dir / "logs" / f"{name}.log" for name in ("cluster", "store")]
        for path in logs:
            os.truncate(path, MAX_BYTES)
        for path in logs:
            eventually(
                lambda path=path: path.stat().st_size < MAX_BYTES / 2,
                timeout_s=EVERY_S + 15,
                what=f"{path.name} is rotated",
            )
            assert path.with_name(f"{path.name}.1").stat().st_size >= MAX_BYTES
        _serves(cluster)

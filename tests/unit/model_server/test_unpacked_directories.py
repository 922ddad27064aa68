"""Directories of pods on a shared volume go when no process uses them any longer."""

import fcntl
import os
from pathlib import Path

import pytest

from skysail_model_server.unpacked_directories import hold, sweep

HOUR_NS = 3600 * 10**9


@pytest.fixture
def node(tmp_path: Path) -> Path:
    for name in ("own", "held", "left"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    return tmp_path


def later(node: Path) -> int:
    return (node / "left.idle").stat().st_mtime_ns + HOUR_NS


def test_a_directory_goes_when_it_is_idle_twice_and_a_held_one_stays(node: Path, monkeypatch):
    opened: list[int] = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda *given: opened.append(real_open(*given)) or opened[-1])
    hold(node / "held")
    monkeypatch.undo()
    sweep(node / "own")
    assert sorted(each.name for each in node.iterdir()) == ["held", "left", "left.idle", "own"]
    sweep(node / "own")
    assert (node / "left").exists()
    sweep(node / "own", lambda: later(node))
    assert sorted(each.name for each in node.iterdir()) == ["held", "own"]
    os.close(opened[0])
    sweep(node / "own")
    assert (node / "held.idle").exists()


def test_a_container_that_starts_again_keeps_its_directory(node: Path):
    sweep(node / "own")
    descriptor = os.open(node / "left" / "manifest.json", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        sweep(node / "own", lambda: later(node))
    finally:
        os.close(descriptor)
    assert (node / "left").exists()
    assert not (node / "left.idle").exists()


def test_the_mark_of_a_removed_directory_goes(node: Path):
    (node / "gone.idle").touch()
    sweep(node / "own")
    assert not (node / "gone.idle").exists()


def test_a_directory_without_a_manifest_counts_as_idle(node: Path):
    (node / "left" / "manifest.json").unlink()
    sweep(node / "own")
    assert (node / "left.idle").exists()


def test_the_first_pod_of_a_node_makes_the_directory(tmp_path: Path):
    sweep(tmp_path / "node" / "pod")
    assert (tmp_path / "node").is_dir()

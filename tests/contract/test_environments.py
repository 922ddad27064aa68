"""Environments of the local container manager, with a script in place of pip."""

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from skysail_management.containers.base import PrepareFailed
from skysail_management.containers.local import environments
from skysail_management.containers.local.environments import Environments, environment_key
from skysail_management.containers.local.processes import wait_for_exit

PATH = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "environments"


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Set the content of the fake pip, whose last argument is the requirements file."""
    script = tmp_path / "python"

    def write(*lines: str) -> None:
        script.write_text("\n".join(["#!/bin/sh", 'for file; do :; done; : "$file"', *lines, ""]))
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return write


async def test_requirements_may_use_the_syntax_of_a_file(directory: Path, pip):
    pip('cat "$file"')
    lines = [
        "--extra-index-url https://example.org/simple",
        "--requirement /srv/more.txt",
        "numpy==1.26 \\",
        "    --hash=sha256:00",
        "# Jürgen's",
        "own-six",
    ]
    seen: list[str] = []
    await Environments(directory, PATH).prepare(lines, seen.append)
    assert seen == lines


async def test_long_line_of_pip_is_one_line(directory: Path, pip):
    pip("head -c 200000 /dev/zero | tr '\\0' x")
    seen: list[str] = []
    await Environments(directory, PATH).prepare(["own-six"], seen.append)
    assert seen == ["x" * 200_000]


async def test_an_endless_line_fails_the_preparation_and_ends_pip(directory: Path, pip):
    pip("tr '\\0' x < /dev/zero")
    with pytest.raises(PrepareFailed, match="cannot create the environment"):
        await Environments(directory, PATH).prepare(["own-six"], lambda line: None)
    assert list(directory.iterdir()) == []


async def test_a_full_disk_fails_the_preparation_and_leaves_nothing(
    directory: Path, pip, monkeypatch
):
    def fails(path: Path) -> None:
        path.mkdir(parents=True)
        raise OSError(28, "No space left on device")

    pip("exit 0")
    with monkeypatch.context() as patch:
        patch.setattr(environments, "make_environment", fails)
        with pytest.raises(PrepareFailed, match="No space left on device"):
            await Environments(directory, PATH).prepare(["own-six"], lambda line: None)
    assert list(directory.iterdir()) == []
    await Environments(directory, PATH).prepare(["own-six"], lambda line: None)


async def test_failed_start_of_pip_fails_the_preparation(directory: Path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(PrepareFailed, match="/nowhere/python"):
        await Environments(directory, PATH).prepare(["own-six"], lambda line: None)


async def test_temporary_files_of_pip_are_in_the_environment(directory: Path, pip):
    pip('touch "$TMPDIR/wheel"', 'echo "$TMPDIR"')
    seen: list[str] = []
    await Environments(directory, {**PATH, "TMPDIR": "/nowhere"}).prepare(["own-six"], seen.append)
    assert directory in Path(seen[0]).parents
    assert not Path(seen[0]).exists()


async def test_child_processes_of_pip_end_with_a_cancelled_preparation(directory: Path, pip):
    pip("sleep 1000 & echo $!", "wait")
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    preparing = asyncio.create_task(
        Environments(directory, PATH).prepare(
            ["own-six"], lambda line: started.set_result(int(line))
        )
    )
    gone = asyncio.create_task(wait_for_exit(await started))
    preparing.cancel()
    await asyncio.gather(preparing, return_exceptions=True)
    await asyncio.wait_for(gone, 10)
    assert list(directory.iterdir()) == []


async def test_cancelled_preparation_removes_the_partial_environment(directory: Path, monkeypatch):
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def make(path: Path) -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        path.mkdir(parents=True)

    monkeypatch.setattr(environments, "make_environment", make)
    preparing = asyncio.create_task(
        Environments(directory, PATH).prepare(["own-six"], lambda line: None)
    )
    await begun.wait()
    preparing.cancel()
    go_on.set()
    await asyncio.gather(preparing, return_exceptions=True)
    assert list(directory.iterdir()) == []


def test_equal_packages_share_an_environment():
    assert environment_key(["a==1", "b"]) == environment_key(["b", " a == 1"])
    assert environment_key(["a==1"]) != environment_key(["a==2"])
    one = ["a==1 \\", "--hash=sha256:1", "b==1 \\", "--hash=sha256:2"]
    other = ["a==1 \\", "--hash=sha256:2", "b==1 \\", "--hash=sha256:1"]
    assert environment_key(one) != environment_key(other)


async def test_environment_needed_during_a_sweep_is_kept(directory: Path, pip):
    pip("exit 0")
    kept = Environments(directory, PATH)
    for requirement in ("own-six", "own-numpy"):
        await kept.prepare([requirement], lambda line: None)

    def needed() -> list[list[str]]:
        # A version that needs the second environment is registered during the removal of the first.
        found = [
            each
            for each in (["own-six"], ["own-numpy"])
            if (directory / environment_key(each)).exists()
        ]
        return found if len(found) == 1 else []

    await kept.sweep(needed)
    (left,) = needed()
    lines: list[str] = []
    await kept.prepare(left, lines.append)
    assert lines == [f"environment {environment_key(left)} is ready"]


async def test_environment_needed_during_the_wait_for_its_lock_is_kept(directory: Path, pip):
    pip("exit 0")
    kept = Environments(directory, PATH)
    await kept.prepare(["own-six"], lambda line: None)
    answers = iter([[], [["own-six"]]])
    await kept.sweep(lambda: next(answers))
    assert (directory / environment_key(["own-six"])).exists()


async def test_emptied_environment_is_rebuilt(directory: Path, pip):
    pip("exit 0")
    kept = Environments(directory, PATH)
    for damaged in ("bin/python", ".complete"):
        await kept.prepare(["own-six"], lambda line: None)
        (directory / environment_key(["own-six"]) / damaged).unlink()
        lines: list[str] = []
        await kept.prepare(["own-six"], lines.append)
        assert lines == []
        assert kept.python(["own-six"]).exists()


async def test_requirements_of_the_base_environment_need_no_other(directory: Path, pip):
    kept = Environments(directory, PATH)
    base = kept.python([])
    lines: list[str] = []
    await kept.prepare(["click>=8", "numpy"], lines.append)
    assert (lines, directory.exists()) == ([], False)
    assert kept.python(["click>=8", "numpy"]) == base
    assert kept.python(["click==0.1"]) != base

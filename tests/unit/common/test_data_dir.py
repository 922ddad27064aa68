import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skysail_common.errors import FailedPrecondition
from skysail_common.process.data_dir import (
    cannot_use,
    log_path,
    open_log,
    remove_socket_directory,
    socket_directory,
)

# A socket's path must end before its 108th byte on Linux.
LONGEST_SOCKET = "a" * 24


@pytest.fixture
def short_dir() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="d-")).resolve()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def long_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path.joinpath(*["a-long-name"] * 20)
    yield directory
    remove_socket_directory(directory)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_sockets_are_in_a_data_directory_with_a_short_path(short_dir):
    data_dir = short_dir / "data"
    directory = socket_directory(data_dir)
    assert directory == data_dir / "sockets"
    assert directory.is_dir()
    assert socket_directory(data_dir) == directory


def test_sockets_are_outside_the_data_directory_if_the_path_is_too_long(long_dir):
    directory = socket_directory(long_dir)
    assert directory.is_dir()
    assert directory.parent == Path(tempfile.gettempdir())
    assert len(os.fsencode(directory / LONGEST_SOCKET)) <= 103
    assert socket_directory(long_dir) == directory


@pytest.mark.parametrize("name", ["a%20b", "a#b", "a?b", "a\nb"])
def test_sockets_are_outside_the_data_directory_if_a_url_would_change_the_path(short_dir, name):
    directory = socket_directory(short_dir / name)
    assert directory.parent == Path(tempfile.gettempdir())
    remove_socket_directory(short_dir / name)
    assert not directory.exists()


def test_a_long_directory_for_temporary_files_is_not_used(long_dir, tmp_path, monkeypatch):
    long_temporary = tmp_path.joinpath(*["b-long-name"] * 10)
    long_temporary.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long_temporary))
    directory = socket_directory(long_dir)
    assert directory.parent == Path("/tmp")
    remove_socket_directory(long_dir)


@pytest.mark.parametrize("make", [socket_directory, lambda data_dir: log_path(data_dir, "a")])
def test_a_data_directory_created_for_sockets_is_private(short_dir, make):
    make(short_dir / "data")
    assert permissions(short_dir / "data") == 0o700


@pytest.mark.parametrize("make", [socket_directory, lambda data_dir: log_path(data_dir, "store")])
def test_the_error_names_a_directory_that_cannot_be_created(make):
    with pytest.raises(FailedPrecondition, match=r"cannot write /proc/x: .*; choose another data"):
        make(Path("/proc/x"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_the_error_of_a_full_disk_asks_for_space(code):
    message = cannot_use(Path("/data/cluster.lock"), OSError(code, os.strerror(code))).message
    assert message.startswith(
        f"cannot write /data/cluster.lock: {os.strerror(code).lower()}; free "
    )
    assert "--data-dir" in message


def test_the_error_names_a_file_in_place_of_the_data_directory(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(FailedPrecondition, match=r"/data: it is a file, not a directory; choose"):
        log_path(tmp_path / "data", "store")


def test_two_long_data_directories_have_different_socket_directories(long_dir):
    other = long_dir / "b"
    assert socket_directory(other) != socket_directory(long_dir)
    remove_socket_directory(other)


def test_the_length_of_a_path_counts_in_bytes(short_dir):
    data_dir = short_dir / ("é" * (60 - len(str(short_dir)) // 2))
    directory = socket_directory(data_dir)
    assert len(os.fsencode(directory / LONGEST_SOCKET)) <= 103
    remove_socket_directory(data_dir)


def test_only_this_user_may_enter_with_any_umask(short_dir, long_dir):
    before = os.umask(0)
    try:
        for data_dir in (short_dir, long_dir):
            assert permissions(socket_directory(data_dir)) == 0o700
    finally:
        os.umask(before)


def test_a_directory_that_others_may_enter_becomes_private(short_dir):
    directory = short_dir / "sockets"
    directory.mkdir()
    directory.chmod(0o777)
    socket_directory(short_dir)
    assert permissions(directory) == 0o700


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_another_object_in_place_of_the_socket_directory_is_refused(short_dir, kind):
    place = short_dir / "sockets"
    if kind == "file":
        place.write_text("")
    else:
        target = short_dir / "target"
        if kind == "link":
            target.mkdir()
        place.symlink_to(target)
    with pytest.raises(FailedPrecondition, match="sockets: it belongs to another user"):
        socket_directory(short_dir)


def test_a_directory_of_another_user_is_refused(short_dir, monkeypatch):
    socket_directory(short_dir)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(FailedPrecondition, match="it belongs to another user"):
        socket_directory(short_dir)


def test_a_relative_and_an_absolute_path_lead_to_the_same_directory(short_dir, monkeypatch):
    monkeypatch.chdir(short_dir)
    assert socket_directory(Path("data")) == socket_directory(short_dir / "data")


def test_the_directory_is_removed_once_it_is_empty(short_dir):
    directory = socket_directory(short_dir)
    (directory / "store.sock").write_text("")
    remove_socket_directory(short_dir)
    assert directory.is_dir()
    (directory / "store.sock").unlink()
    remove_socket_directory(short_dir)
    assert not directory.exists()


def test_the_error_about_another_owner_has_the_fix(tmp_path: Path):
    inside = tmp_path / "volume" / "new" / "management.lock"
    (tmp_path / "volume").mkdir(mode=0o755)
    error = PermissionError(13, "Permission denied")
    owner = f"{os.getuid()}:{os.getgid()}"
    assert cannot_use(inside, error).message == (
        f"cannot write {inside}: permission denied; {tmp_path / 'volume'} belongs to {owner} with "
        f"mode 755, and this process runs as {owner}; run 'chown -R {owner}' on the directory that is "
        "mounted there, or choose another data directory"
    )


def test_the_error_names_a_log_that_cannot_be_written(tmp_path: Path):
    path = log_path(tmp_path, "store")
    path.mkdir()
    with pytest.raises(FailedPrecondition, match=r"cannot write .*/store\.log: is a directory; "):
        open_log(path)

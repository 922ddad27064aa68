from pathlib import Path

import pytest

from skysail_management.containers.local import work_directories
from skysail_management.containers.local.work_directories import (
    make_work_directory,
    remove_dangling_links,
    remove_replica_directory,
    remove_short_link,
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    place = tmp_path / "short"
    place.mkdir()
    monkeypatch.setattr(work_directories, "_SHORT_PLACE", place)
    return place


def test_work_directory_has_a_short_link_until_its_removal(place: Path, tmp_path: Path):
    directory = tmp_path / "replicas" / "m.1.0-0123abcd"
    name = make_work_directory(directory)
    assert name == place / "skysail-0123abcd"
    (name / "file").write_text("x")
    assert (directory / "work" / "file").read_text() == "x"
    remove_replica_directory(directory)
    assert not directory.exists()
    assert list(place.iterdir()) == []


def test_existing_link_is_kept(place: Path, tmp_path: Path):
    directory = tmp_path / "replicas" / "m.1.0-0123abcd"
    (place / "skysail-0123abcd").write_text("of another program")
    assert make_work_directory(directory) == directory / "work"
    remove_short_link(directory)
    assert (place / "skysail-0123abcd").read_text() == "of another program"


def test_only_dangling_links_are_removed(place: Path, tmp_path: Path):
    kept = make_work_directory(tmp_path / "a" / "m.1.0-00000001")
    gone = make_work_directory(tmp_path / "a" / "m.1.1-00000002")
    (tmp_path / "a" / "m.1.1-00000002" / "work").rmdir()
    other = place / "skysail-other"
    other.symlink_to(tmp_path / "nowhere" / "work")
    elsewhere = place / "skysail-00000003"
    elsewhere.symlink_to(tmp_path / "nowhere" / "file")
    file = place / "skysail-00000004"
    file.write_text("")
    remove_dangling_links()
    assert sorted(place.iterdir()) == sorted([kept, other, elsewhere, file])
    assert not gone.is_symlink()

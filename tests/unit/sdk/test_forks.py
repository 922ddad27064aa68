from pathlib import Path

import pytest

from skysail.forks import _has_native_threads


@pytest.mark.parametrize("name", ["event_engine", "grpc_global_tim", "grpc_shutdown"])
def test_native_threads_of_grpc_are_found(tmp_path: Path, name: str):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "comm").write_text("python\n")
    # The entry of a thread that ended after the listing.
    (tmp_path / "2" / "comm").mkdir(parents=True)
    assert not _has_native_threads(tmp_path)
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "comm").write_text(f"{name}\n")
    assert _has_native_threads(tmp_path)


def test_a_system_that_lists_no_threads_has_none(tmp_path: Path):
    assert not _has_native_threads(tmp_path / "none")

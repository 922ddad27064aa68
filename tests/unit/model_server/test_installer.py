from pathlib import Path

import pytest

from skysail_common.states import ExitCode
from skysail_model_server import installer


@pytest.mark.parametrize("arguments", [[], ["install"], ["upgrade", "/d"], ["install", "/d", "/e"]])
def test_wrong_arguments_print_the_usage(arguments: list[str], capsys):
    assert installer.main(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("usage: python -m skysail_model_server.installer ")


def test_removing_an_absent_environment_succeeds(tmp_path: Path):
    directory = tmp_path / "0123"
    (directory / "bin").mkdir(parents=True)
    (tmp_path / "4567").mkdir()
    for _ in range(2):
        assert installer.main(["remove", str(directory)]) == ExitCode.OK
    assert [each.name for each in tmp_path.iterdir()] == ["4567"]


def test_a_volume_that_cannot_be_written_is_reported(tmp_path: Path, capsys):
    # The line starts like the error lines of pip.
    (tmp_path / "volume").write_text("")
    assert installer.main(["install", str(tmp_path / "volume" / "0123")]) == ExitCode.FAILED
    assert capsys.readouterr().err.startswith("ERROR: cannot build the environment: ")


@pytest.mark.parametrize("status", [1, 2, -9])
def test_the_status_is_that_of_pip_and_no_environment_stays(
    tmp_path: Path, monkeypatch, status: int
):
    program = (
        f"import os, sys; {'os.kill(os.getpid(), 9)' if status < 0 else f'sys.exit({status})'}"
    )
    monkeypatch.setattr(
        installer,
        "install_command",
        lambda *paths: [str(tmp_path / "0123/bin/python"), "-c", program],
    )
    assert installer.main(["install", str(tmp_path / "0123")]) == status
    assert list(tmp_path.iterdir()) == []


def test_a_complete_environment_stays_and_a_damaged_one_is_rebuilt(
    tmp_path: Path, monkeypatch, capsys
):
    directory = tmp_path / "0123"
    runs: list[object] = []

    def install_command(*paths: Path) -> list[str]:
        runs.append(paths)
        return ["true"]

    monkeypatch.setattr(installer, "install_command", install_command)
    for _ in range(2):
        assert installer.main(["install", str(directory)]) == ExitCode.OK
    assert len(runs) == 1
    assert "environment 0123 is complete" in capsys.readouterr().out
    (directory / "bin" / "python").unlink()
    assert installer.main(["install", str(directory)]) == ExitCode.OK
    assert len(runs) == 2
    assert (directory / "bin" / "python").exists()

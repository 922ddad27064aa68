import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from skysail import Client
from skysail.cli.options import find_data_dir
from skysail.settings import CLUSTER_FILE, ClientSettings
from skysail_common.errors import FailedPrecondition


@pytest.fixture
def _without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_DATA_HOME", "SKYSAIL_DATA_DIR", "SKYSAIL_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)


@pytest.mark.usefixtures("_without_a_home")
def test_an_endpoint_needs_no_home_directory():
    assert Client("somewhere:8003").endpoint == "somewhere:8003"
    assert ClientSettings().find_endpoint() == "127.0.0.1:8003"
    assert find_data_dir(Path("/srv/skysail")) == Path("/srv/skysail")


@pytest.mark.usefixtures("_without_a_home")
@pytest.mark.parametrize("given", [None, Path("~/data")])
def test_the_error_about_a_missing_home_names_the_settings(given: Path | None):
    with pytest.raises(FailedPrecondition, match="no home directory; set SKYSAIL_DATA_DIR"):
        find_data_dir(given)


def test_the_data_directory_of_the_environment_is_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKYSAIL_DATA_DIR", "data")
    assert ClientSettings().find_data_dir() == tmp_path / "data"


def test_a_running_supervisor_is_named(tmp_path):
    settings = ClientSettings(data_dir=tmp_path)
    note = tmp_path / CLUSTER_FILE
    record = {"pid": os.getpid(), "management": "127.0.0.1:9", "socket": "unix:/s"}
    assert settings.supervisor_of("127.0.0.1:9") == 0
    note.write_text(json.dumps(record))
    assert settings.supervisor_of("127.0.0.1:9") == os.getpid()
    assert settings.supervisor_of("unix:/s") == os.getpid()
    assert settings.supervisor_of("127.0.0.1:10") == 0
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    note.write_text(json.dumps({**record, "pid": process.pid}))
    assert settings.supervisor_of("127.0.0.1:9") == 0

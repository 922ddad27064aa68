import importlib.util
import re
import sys
from pathlib import Path

import pytest

from skysail_common import __version__
from skysail_common.errors import FailedPrecondition
from skysail_common.extras import MODULES, missing_extra, require_extra

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


@pytest.mark.skipif(tomllib is None, reason="needs tomllib")
def test_every_extra_of_the_wheel_is_known():
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    for extra, modules in MODULES.items():
        names = {re.split(r"[\[>=<]", each)[0].replace("-", "_") for each in extras[extra]}
        # aiohttp comes with the client of Kubernetes.
        assert set(modules) - {"aiohttp"} <= names


def test_the_error_about_a_missing_module_names_the_wheel(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "docker" else find(name)
    )
    require_extra("server")
    wheel = re.escape(f"'dist/skysail-{__version__}-py3-none-any.whl[docker]'")
    with pytest.raises(FailedPrecondition, match=f"'docker' is not installed.*pip install {wheel}"):
        require_extra("docker")


def test_a_failed_import_maps_to_its_extra():
    error = ModuleNotFoundError("No module named 'docker.errors'", name="docker.errors")
    told = missing_extra(error)
    assert told is not None
    assert "[docker]" in told.message
    assert missing_extra(ModuleNotFoundError("nothing", name="pandas")) is None

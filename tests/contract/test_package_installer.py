"""Installations with the real uv and the real pip, without the network."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from skysail_common.process import package_installer
from skysail_common.process.virtual_environments import install_command, make_environment
from skysail_management.containers.requirements import install_error
from tests.skysail_testing.container_managers import make_wheel


@pytest.fixture(params=["uv", "pip"])
def tool(request: pytest.FixtureRequest, monkeypatch, tmp_path: Path) -> str:
    """Install with this tool, and find wheels only in one directory."""
    for name in ("PIP_FIND_LINKS", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    if request.param == "pip":
        monkeypatch.setattr(package_installer, "find_uv", lambda: None)
    elif importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed")
    return request.param


def test_the_reason_of_a_failure_is_in_one_line(tool, environment: Path, capsys):
    assert install(environment, "no-such-package==1.0") == 1
    error = install_error(1, capsys.readouterr().out.splitlines())
    assert error.message.startswith("cannot install the requirements: ")
    assert "no-such-package==1.0" in error.message


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    directory = tmp_path / "environment"
    make_environment(directory)
    return directory


def install(environment: Path, *lines: str) -> int:
    requirements = environment / "requirements.txt"
    requirements.write_text("".join(f"{line}\n" for line in lines))
    return package_installer.main(install_command(environment, requirements)[3:])


def evaluate(environment: Path, expression: str) -> object:
    program = f"import json; print(json.dumps({expression}))"
    done = subprocess.run(
        [str(environment / "bin/python"), "-c", program],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_indexes_of_pip_serve_both(tool, environment: Path, tmp_path: Path, capfd):
    make_wheel(tmp_path, "own_package", "ANSWER = 42")
    assert install(environment, "# ours", "own-package", "click") == 0
    assert evaluate(environment, "__import__('own_package').ANSWER") == 42
    # A package of the base environment satisfies its requirement.
    name = "__import__('click').__file__"
    assert str(environment) not in str(evaluate(environment, name))
    leftovers = [path.name for path in environment.glob("lib/*/site-packages/*.dist-info")]
    assert leftovers == ["own_package-1.0.dist-info"]


def test_a_package_of_the_base_environment_can_be_replaced(tool, environment, tmp_path: Path):
    make_wheel(tmp_path, "click", "ANSWER = 42")
    assert install(environment, "click==1.0") == 0
    assert evaluate(environment, "__import__('click').ANSWER") == 42
    # The base environment is unchanged.
    subprocess.run([sys.executable, "-c", "import click; click.Command"], check=True, timeout=60)


def test_credentials_are_not_printed(tool, environment: Path, monkeypatch, capsys):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hush@127.0.0.1:1/simple")
    assert install(environment, "no-such-package") == 1
    printed = capsys.readouterr().out
    assert "no-such-package" in printed
    assert "hush" not in printed


def test_an_option_that_only_pip_has(tool, environment: Path, tmp_path: Path, capsys):
    make_wheel(tmp_path, "own_package", "ANSWER = 42")
    assert install(environment, "--pre", "own-package") == 0
    assert "Successfully installed" in capsys.readouterr().out


def test_usage(capsys):
    assert package_installer.main(["--no-such-option"]) == 2
    assert "usage: " in capsys.readouterr().err

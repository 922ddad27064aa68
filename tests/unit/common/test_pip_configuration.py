from pathlib import Path

import pytest

from skysail_common.process.pip_configuration import (
    has_only_uv_lines,
    pip_options,
    uv_configuration,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".config/pip").mkdir(parents=True)
    return tmp_path


def options(home: Path, text: str = "", **variables: str) -> dict[str, str]:
    (home / ".config/pip/pip.conf").write_text(text)
    own = {"HOME": str(home), "XDG_CONFIG_DIRS": str(home / "none"), **variables}
    return pip_options(own)


def test_variables_of_pip_take_precedence_over_its_files(home: Path):
    text = "[global]\nindex-url = https://a.example\ntimeout = 5\n[install]\nno_index = true\n"
    found = options(home, text, PIP_INDEX_URL="https://b.example", PIP_FIND_LINKS=" ")
    assert found["index-url"] == "https://b.example"
    assert (found["timeout"], found["no-index"]) == ("5", "true")
    assert "find-links" not in found


def test_a_file_that_a_variable_names_takes_precedence(home: Path):
    own = home / "own.conf"
    own.write_text("[global]\nextra-index-url =\n    https://c.example\n    https://d.example\n")
    found = options(home, "[global]\nextra-index-url = x\n", PIP_CONFIG_FILE=str(own))
    assert found["extra-index-url"].split() == ["https://c.example", "https://d.example"]
    assert options(home, "[global]\nproxy = x\n", PIP_CONFIG_FILE="/dev/null").keys() <= {
        "config-file"
    }


def test_an_unreadable_file_is_left_to_pip(home: Path):
    assert "index-url" not in options(home, "index-url = no section")


def test_indexes_and_certificates_become_variables_of_uv():
    given = {
        "index-url": "https://me:hush@index.example/simple",
        "extra-index-url": "https://a.example\nhttps://b.example",
        "find-links": "/wheels https://c.example",
        "trusted-host": "index.example",
        "cert": "/ca.pem",
        "proxy": "http://proxy.example",
        "no-index": "1",
        "pre": "false",
        "quiet": "1",
    }
    found = uv_configuration(given, {"UV_INSECURE_HOST": "mine.example"})
    assert found.variables == {
        "UV_INDEX_URL": "https://me:hush@index.example/simple",
        "UV_EXTRA_INDEX_URL": "https://a.example https://b.example",
        "UV_FIND_LINKS": "/wheels,https://c.example",
        "UV_INSECURE_HOST": "mine.example",
        "SSL_CERT_FILE": "/ca.pem",
        "HTTP_PROXY": "http://proxy.example",
        "HTTPS_PROXY": "http://proxy.example",
    }
    assert found.arguments == ["--no-index"]
    assert found.unknown == []
    assert "hush" not in repr(found)


def test_an_option_without_counterpart_is_unknown():
    assert uv_configuration({"no-binary": ":all:"}, {}).unknown == ["no-binary"]


@pytest.mark.parametrize(
    ("text", "is_known"),
    [
        ("numpy>=2\n# a note --pre\n", True),
        ("--extra-index-url https://index.example\nnumpy==2.0 \\\n  --hash=sha256:00\n", True),
        ("-c limits.txt", True),
        ("--pre\nnumpy", False),
        ("numpy --config-settings=a=b", False),
        ("numpy; python_version < '4'", True),
        ("numpy; python_version < '4", False),
    ],
)
def test_uv_knows_some_options_of_a_requirements_file(text: str, is_known: bool):
    assert has_only_uv_lines(text) is is_known

import json
import sys

import pytest

from skysail.cli.main import main


@pytest.fixture
def failed(monkeypatch, capsys):
    """Run the command like a shell, and return its exit status and standard error."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["skysail", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        assert written.out == ""
        return ended.value.code, written.err

    return run


@pytest.mark.parametrize("option", [("--output", "json"), ("-o", "json"), ("-ojson",)])
def test_an_error_is_one_object_where_the_output_is_json(failed, option):
    status, text = failed("predict", "shout", "hello", *option)
    assert status == 1
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    found = json.loads(text)
    assert found.pop("error").startswith("cannot read the input: it is not JSON: ")
    assert found == {"status": "INVALID_ARGUMENT", "reason": "InvalidInput"}


@pytest.mark.parametrize("option", [(), ("--output", "table")])
def test_an_error_is_one_line_without_json_output(failed, option):
    status, text = failed("predict", "shout", "hello", *option)
    assert status == 1
    assert text.startswith("skysail: cannot read the input: it is not JSON: ")


def test_the_lines_of_the_users_code_are_in_the_object(failed, tmp_path, monkeypatch):
    (tmp_path / "brokenmodel.py").write_text("\nnumber = 1 // 0\n")
    monkeypatch.chdir(tmp_path)
    status, text = failed("deploy", "brokenmodel:predict", "--name", "broken", "-o", "json")
    assert status == 1
    found = json.loads(text)
    assert "brokenmodel" in found["error"]
    assert "brokenmodel.py" in found["traceback"]
    assert "line 2" in found["traceback"]


@pytest.mark.parametrize("arguments", [("--output", "xml"), ("-o", "json"), ("-o", "json", "--no")])
def test_a_usage_error_stays_text(failed, arguments):
    status, text = failed("predict", "shout", *arguments)
    assert status == 2
    assert text.startswith("Usage: ")

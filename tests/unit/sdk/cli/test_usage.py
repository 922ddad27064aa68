import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from skysail.cli.main import cli
from skysail_common import __version__
from skysail_common.errors import InvalidInput


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


ALL = list(commands())


def test_the_set_of_commands_is_complete():
    assert {" ".join(path) for path in ALL} == {
        "", "up", "down", "status", "deploy", "check", "promote", "rollback", "scale", "start", "undeploy", "tune",
        "logs", "models", "delete", "predict", "apps", "apps register", "apps update", "apps unregister",
        "apps link", "apps unlink", "forward", "registry", "registry login",
        "store", "store restore", "kubernetes", "kubernetes manifests",
    }  # fmt: skip


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "skysail")
def test_the_help_of_every_command_shows_an_example(path, option):
    result = run(*path, option)
    assert result.exit_code == 0
    usage, _, text = result.output.partition("\n")
    assert usage.startswith(f"Usage: {' '.join(['cli', *path])} ")
    examples = re.search(r"^ *Example:\n((?: +skysail .*\n)+)", text, re.MULTILINE)
    assert examples is not None
    assert any(line.split()[1 : 1 + len(path)] == list(path) for line in examples[1].splitlines())


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "skysail")
def test_the_options_in_the_examples_of_a_command_exist(path):
    text = run(*path, "--help").output
    for line in re.findall(r"^ +skysail (.*)$", text, re.MULTILINE):
        words = line.split()
        command: click.Command = cli
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "skysail")
def test_the_options_fit_a_narrow_terminal(path):
    text = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).output
    assert [line for line in text.partition("Options:")[2].splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("path", [(), ("apps",)], ids=["skysail", "apps"])
def test_the_list_of_commands_is_not_cut_off_on_a_narrow_terminal(path):
    text = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).output
    assert "  up  " in text or "  link  " in text
    assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("hello", "; a string needs quotes: '\"hello\"'"),
        ("it's me", "; a string needs quotes: '\"it'\"'\"'s me\"'"),
        ("[1, 2", ""),
        ("1,5", ""),
    ],
)
def test_a_text_without_quotes_is_no_json(text, hint):
    error = run("predict", "shout", text).exception
    assert isinstance(error, InvalidInput)
    assert error.message.startswith("cannot read the input: it is not JSON: ")
    assert error.message.partition(")")[2] == hint


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ("{", "cannot read the parameters: they are not JSON: "),
        ("[1]", "cannot read the parameters: they are not a JSON object"),
    ],
)
def test_parameters_are_a_json_object(params, text):
    error = run("predict", "digits", "1", "--params", params).exception
    assert isinstance(error, InvalidInput)
    assert error.message.startswith(text)


def test_the_version_is_printed():
    assert run("--version").output == f"skysail, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "No such command 'nope'"),
        (["apps", "nope"], "No such command 'nope'"),
        (["models", "--nope"], "No such option"),
        (["models", "one", "stray"], "unexpected extra argument"),
        (["models", "--output", "xml"], "'xml' is not one of 'table', 'json'"),
        (["up", "--http-port", "65536"], "65536 is not in the range"),
        (["up", "--log-level", "loud"], "'loud' is not one of"),
        (["up", "--data-dir", __file__], "is a file"),
        (["deploy"], "Missing argument 'SOURCE'"),
        (["deploy", "m:f", "--version", "1"], "Missing option '--name'"),
        (
            ["deploy", "m:f", "--name", "n", "--version", "1", "--num-replicas", "0"],
            "0 is not in the range",
        ),
        (
            ["deploy", "m:f", "--name", "n", "--version", "1", "--input-type", "tensors"],
            "'tensors' is not one of",
        ),
        (
            ["deploy", "m:f", "--name", "n", "--version", "1", "--requirements", "/no/such/file"],
            "does not exist",
        ),
        (
            ["deploy", "m:f", "--name", "n", "--version", "1", "--cpus", "-0.5"],
            "-0.5 is not in the range",
        ),
        (["promote"], "Missing argument 'MODEL:VERSION'"),
        (["promote", "digits"], "'digits' names no version; give it as digits:VERSION"),
        (["promote", "digits:2", "3"], "unexpected extra argument (3)"),
        (["scale", "digits:", "2"], "'digits:' has no version after the colon"),
        (["logs", ":1"], "':1' names no model; give it as MODEL[:VERSION]"),
        (["predict", "digits:", "1"], "'digits:' has no version after the colon"),
        (["rollback"], "Missing argument 'MODEL'"),
        (["scale", "digits"], "give either a number of replicas, or --max"),
        (["scale", "digits", "2", "--max", "3"], "give either a number of replicas, or --max"),
        (["scale", "digits", "--min", "2"], "give either a number of replicas, or --max"),
        (["scale", "digits", "--min", "0", "--max", "2"], "0 is not in the range"),
        (["scale", "digits", "many"], "'many' is not a valid integer"),
        (["scale", "digits", "-1"], "-1 is not in the range x>=0"),
        (["scale", "digits", "-x"], "No such option '-x'"),
        (["start"], "Missing argument 'MODEL[:VERSION]'"),
        (["start", "digits:1", "--num-replicas", "0"], "0 is not in the range"),
        (
            ["tune", "digits", "--max-queue-size", "9", "--default", "max-queue-size"],
            "cannot reset max-queue-size: a value is given, too; give one of the two",
        ),
        (["apps", "update"], "Missing argument 'NAME'"),
        (["undeploy"], "Missing argument 'MODEL[:VERSION]'"),
        (["logs", "digits", "--tail", "-1"], "-1 is not in the range"),
        (["predict", "digits"], "give the input either as JSON or by --input-file"),
        (
            ["predict", "digits", "1", "--input-file", "-"],
            "give the input either as JSON or by --input-file",
        ),
        (["predict", "digits", "1", "--timeout-s", "0"], "is not in the range"),
        (["apps", "register"], "Missing argument 'NAME'"),
        (["apps", "register", "a", "--input-type", "words"], "'words' is not one of 'tensors',"),
        (["apps", "register", "a", "--slo-ms", "0"], "is not in the range"),
        (["apps", "register", "a", "--slo-ms", "soon"], "'soon' is not a valid float"),
        (["apps", "unregister"], "Missing argument 'NAME'"),
        (["apps", "link"], "Missing argument 'NAME'"),
        (["apps", "unlink"], "Missing argument 'NAME'"),
        (["kubernetes", "manifests", "--force"], "--force needs a DIRECTORY to write to"),
        (["kubernetes", "manifests", __file__], "is a file"),
    ],
    ids=lambda each: " ".join(each[:4]) if isinstance(each, list) else "",
)
def test_a_usage_error_ends_with_status_2_and_says_what(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output
    assert message in result.output

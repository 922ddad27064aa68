"""The page of the command line, from the commands of `skysail`."""

import inspect
import re
from collections.abc import Iterator

import click

from docs.pages.markdown import GENERATED, anchor, one_line
from skysail.cli.main import cli

_EXAMPLE = re.compile(r"^\x08\nExample:\n", re.MULTILINE)


def commands_page() -> str:
    """Return docs/cli.md."""
    found = list(_commands(cli, ("skysail",)))
    lines = [
        "# Command line",
        "",
        "`skysail` and every command under it show the same text with `--help`. An error is one line",
        "on standard error, with exit status 1 (wrong usage: 2, Ctrl-C: 130). With `--output json`",
        "results and errors are JSON. Variables such as `SKYSAIL_ENDPOINT` are on the page of",
        "[settings](settings.md#the-sdk-and-the-command-line).",
        "",
        "| command | purpose |",
        "|---|---|",
    ]
    for path, command in found:
        title = " ".join(path)
        lines.append(f"| [`{title}`](#{anchor(title)}) | {one_line(_summary(command))} |")
    for path, command in found:
        lines += _section(" ".join(path), command)
    lines += ["", GENERATED.format("the commands")]
    return "\n".join(lines) + "\n"


def _commands(
    group: click.Group, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that does something, with its words."""
    for name, command in sorted(group.commands.items()):
        if not isinstance(command, click.Group):
            yield (*path, name), command
            continue
        if command.invoke_without_command:
            yield (*path, name), command
        yield from _commands(command, (*path, name))


def _summary(command: click.Command) -> str:
    return _text(command).split("\n\n")[0]


def _text(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")


def _section(title: str, command: click.Command) -> list[str]:
    prose, _, example = _EXAMPLE.sub("\0", _text(command)).partition("\0")
    arguments = [_name(each) for each in command.params if isinstance(each, click.Argument)]
    lines = ["", f"## {title}", ""]
    for paragraph in prose.strip().split("\n\n"):
        lines += [paragraph, ""]
    lines += ["```sh", *inspect.cleandoc(f"\n{example}").splitlines(), "```", ""]
    lines += [f"Usage: `{' '.join([title, '[OPTIONS]', *arguments])}`", ""]
    options = [each for each in command.params if isinstance(each, click.Option)]
    if not options:
        return lines[:-1]
    lines += ["| option | meaning | default |", "|---|---|---|"]
    for option in options:
        lines.append(f"| {_flags(option)} | {one_line(_meaning(option))} | {_default(option)} |")
    return lines


def _name(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _flags(option: click.Option) -> str:
    names = sorted(option.opts, key=len, reverse=True)
    flags = ", ".join(f"`{name}`" for name in names)
    if option.secondary_opts:
        flags += f" / `{option.secondary_opts[0]}`"
    return flags if option.is_flag else f"{flags} {one_line(_kind(option))}"


def _kind(option: click.Option) -> str:
    if isinstance(option.type, click.Choice) and not option.metavar:
        return " ".join(f"`{choice}`" for choice in option.type.choices)
    return f"`{option.metavar or option.type.name.partition(' ')[0].upper()}`"


def _meaning(option: click.Option) -> str:
    text = (option.help or "").partition(" [default: ")[0]
    if isinstance(option.type, (click.IntRange, click.FloatRange)):
        low, high = option.type.min, option.type.max
        least = f"{'more than' if option.type.min_open else 'at least'} {low:g}"
        bounds = least if high is None else f"{low:g} to {high:g}"
        # A port may be any: every command says the same of it.
        if (low, high) != (0, 65535):
            text = f"{text} {bounds[0].upper()}{bounds[1:]}.".strip()
    notes = [
        note
        for note, holds in (("required", option.required), ("repeatable", option.multiple))
        if holds and note not in text
    ]
    return f"{text} ({', '.join(notes)})" if notes else text


def _default(option: click.Option) -> str:
    _, marker, said = (option.help or "").partition(" [default: ")
    if marker:
        return one_line(said.rstrip("]"))
    return f"`{option.default}`" if option.show_default else ""

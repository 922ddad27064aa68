"""The command predict, for one prediction."""

import json
import shlex
from typing import Any, TextIO

import click
from rich.markup import escape

from skysail.cli.options import endpoint_option, open_client, query_endpoint_option
from skysail.cli.output import output_option, plain, print_json, print_table
from skysail.cli.version_targets import Target, target_argument
from skysail_common.errors import InvalidInput

_MAX_SHOWN = 40


@click.command()
@target_argument("APPLICATION|MODEL[:VERSION]")
@click.argument("input", metavar="JSON", required=False)
@click.option(
    "--input-file", type=click.File("r"), help="File with the JSON input; - for standard input."
)
@click.option(
    "--params", metavar="JSON", help="Object with parameters for the function of the model."
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Longest wait, in seconds.",
)
@query_endpoint_option
@endpoint_option
@output_option
def predict(
    target: Target,
    input: str | None,  # noqa: A002 - the name of the argument in --help.
    input_file: TextIO | None,
    params: str | None,
    timeout_s: float,
    query_endpoint: str | None,
    endpoint: str | None,
    output: str,
) -> None:
    """Query an application or a model for one prediction.

    A named version must answer. Without one, the routes decide.

    The input is JSON: a number, a string, a list, or an object with the inputs of the model by name.

    \b
    Example:
      skysail predict digits '[0, 3, 12]'
      skysail predict shout '"hello"'
      skysail predict sum:1 '[1, 2, 3]' --output json
    """
    if (input is None) == (input_file is None):
        raise click.UsageError("give the input either as JSON or by --input-file")
    text = input if input is not None else input_file.read()  # type: ignore[union-attr]
    try:
        value = json.loads(text)
    except ValueError as error:
        is_text = text[:1].isalpha() and len(text) <= _MAX_SHOWN
        hint = f"; a string needs quotes: {shlex.quote(json.dumps(text))}" if is_text else ""
        raise InvalidInput(f"cannot read the input: it is not JSON: {error}{hint}") from None
    with open_client(endpoint, query_endpoint=query_endpoint) as client:
        try:
            found = client.predict(
                target.model,
                value,
                version=target.version,
                params=_params(params),
                timeout_s=timeout_s,
            )
        except InvalidInput as error:
            # The hint names a method of the client, which is no command.
            error.args = (error.message.removesuffix("; for many use predict_batch"),)
            raise
    if output == "json":
        print_json(found)
        return
    source = f"{found.model}:{found.version}" if found.model else ""
    rows = [
        ["output", f"[bold]{escape(json.dumps(plain(found.output)))}[/]"],
        ["outcome", f"{found.outcome}  {escape(found.explanation)}"],
        ["model", escape(source)],
        ["time", f"{found.timings.total_s * 1000:.2f} ms"],
    ]
    print_table("", ["", ""], rows)


def _params(text: str | None) -> dict[str, Any]:
    """Return the parameters of `--params`."""
    try:
        params = json.loads(text or "{}")
    except ValueError as error:
        raise InvalidInput(f"cannot read the parameters: they are not JSON: {error}") from None
    if not isinstance(params, dict):
        raise InvalidInput("cannot read the parameters: they are not a JSON object")
    return params


COMMANDS = (predict,)

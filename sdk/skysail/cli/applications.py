"""The group apps, about applications and their routes."""

import json

import click
from rich.markup import escape

from skysail.cli.options import endpoint_option, open_client, parse_default_output
from skysail.cli.output import output_option, print_json, print_table
from skysail.descriptions import Route
from skysail_common.errors import InvalidInput
from skysail_common.tensors import InputType


@click.group(invoke_without_command=True)
@endpoint_option
@output_option
@click.pass_context
def apps(context: click.Context, endpoint: str | None, output: str) -> None:
    """List applications, and change them and their routes.

    \b
    Example:
      skysail apps
      skysail apps register digits-app --input-type doubles --slo-ms 50 --default-output -1
      skysail apps link digits-app digits
    """
    if context.invoked_subcommand is not None:
        return
    with open_client(endpoint) as client:
        found = client.applications()
    if output == "json":
        print_json(found)
        return
    rows = [
        [
            escape(each.name),
            each.input_type,
            f"{each.slo_ms:g} ms",
            escape(json.dumps(each.default_output)) if each.has_default else "[dim]none[/]",
            ", ".join(
                escape(f"{route.model}:{route.version or 'current'} ({route.weight:g})")
                for route in each.routes
            ),
        ]
        for each in found
    ]
    print_table("", ["name", "input", "SLO", "default output", "routes (weight)"], rows)


@apps.command()
@click.argument("name")
@click.option(
    "--input-type",
    type=click.Choice([input_type.name.lower() for input_type in InputType]),
    default="tensors",
    show_default=True,
    help="Input type of its models; tensors for any.",
)
@click.option(
    "--slo-ms",
    type=click.FloatRange(0, min_open=True),
    default=100.0,
    show_default=True,
    help="Promised latency in milliseconds.",
)
@click.option("--default-output", metavar="JSON", help="Answer if no prediction is in time.")
@endpoint_option
def register(
    name: str, input_type: str, slo_ms: float, default_output: str | None, endpoint: str | None
) -> None:
    """Register an application.

    \b
    Example:
      skysail apps register digits-app --input-type doubles --slo-ms 50 --default-output -1
    """
    with open_client(endpoint) as client:
        client.register_application(name, input_type, parse_default_output(default_output), slo_ms)
    click.echo(f"application {name} is registered")


@apps.command()
@click.argument("name")
@click.option(
    "--slo-ms", type=click.FloatRange(0, min_open=True), help="Promised latency in milliseconds."
)
@click.option("--default-output", metavar="JSON", help="Answer if no prediction is in time.")
@click.option(
    "--no-default-output", "removes_default", is_flag=True, help="Remove the default output."
)
@click.option(
    "--cache/--no-cache", "uses_cache", default=None, help="Use the prediction cache or not."
)
@endpoint_option
def update(
    name: str,
    slo_ms: float | None,
    default_output: str | None,
    removes_default: bool,
    uses_cache: bool | None,
    endpoint: str | None,
) -> None:
    """Change the given values of an application.

    Values that are not given stay.

    \b
    Example:
      skysail apps update digits-app --slo-ms 20
      skysail apps update digits-app --no-default-output
    """
    with open_client(endpoint) as client:
        client.update_application(
            name,
            slo_ms=slo_ms,
            default_output=parse_default_output(default_output),
            removes_default=removes_default,
            uses_cache=uses_cache,
        )
    click.echo(f"application {name} is changed")


@apps.command()
@click.argument("name")
@endpoint_option
def unregister(name: str, endpoint: str | None) -> None:
    """Remove an application.

    \b
    Example:
      skysail apps unregister digits-app
    """
    with open_client(endpoint) as client:
        client.unregister_application(name)
    click.echo(f"application {name} is removed")


@apps.command()
@click.argument("name")
@click.argument("routes", nargs=-1, metavar="MODEL[:VERSION][=WEIGHT]...")
@endpoint_option
def link(name: str, routes: tuple[str, ...], endpoint: str | None) -> None:
    """Route an application to models.

    Without models it is routed to nothing.

    \b
    Example:
      skysail apps link digits-app digits
      skysail apps link digits-app digits:1=90 digits:2=10
    """
    parsed = [_route(text) for text in routes]
    with open_client(endpoint) as client:
        client.set_routes(name, parsed)
    click.echo(f"application {name} is routed to {', '.join(routes) or 'nothing'}")


@apps.command()
@click.argument("name")
@endpoint_option
def unlink(name: str, endpoint: str | None) -> None:
    """Route an application to nothing.

    \b
    Example:
      skysail apps unlink digits-app
    """
    with open_client(endpoint) as client:
        client.unlink(name)
    click.echo(f"application {name} is routed to nothing")


def _route(text: str) -> Route:
    target, _, weight = text.partition("=")
    model, _, version = target.partition(":")
    try:
        return Route(model, version, float(weight) if weight else 1.0)
    except ValueError:
        raise InvalidInput(f"cannot use the route {text!r}: {weight!r} is not a number") from None


COMMANDS = (apps,)

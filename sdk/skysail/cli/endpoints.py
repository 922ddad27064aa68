"""The table of the endpoints of a cluster."""

from rich.markup import escape

from skysail.cli.output import console, print_table
from skysail.clusters.options import ClusterEndpoints


def print_endpoints(endpoints: ClusterEndpoints) -> None:
    """Show the endpoints of a cluster that is ready."""
    prometheus = endpoints.prometheus and f"http://{endpoints.prometheus}"
    rows = [
        ("gRPC", endpoints.grpc, "Open Inference Protocol, QueryService"),
        (
            "HTTP",
            endpoints.http and f"{endpoints.scheme}://{endpoints.http}",
            "/v2/…, /{application}/predict",
        ),
        ("metrics", endpoints.metrics and f"http://{endpoints.metrics}/metrics", "Prometheus"),
        ("management", endpoints.management, "SDK, command line, grpcurl"),
        ("Prometheus", prometheus, "metrics over time"),
    ]
    print_table(
        "",
        ["", "", ""],
        [
            ["[green]✓[/] Skysail is ready", "", ""],
            *(
                [f"  {name}", f"[bold]{escape(where)}[/]", what]
                for name, where, what in rows
                if where
            ),
        ],
        whole=(0, 1),
    )


def print_hint(line: str) -> None:
    """Show a hint about the next step."""
    # Lines keep their width, because people copy paths and commands from them.
    console().print(escape(line), style="dim", soft_wrap=True)

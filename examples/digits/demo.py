"""The main job, end to end: `make demo`, `make demo-docker`, `make demo-kubernetes`.

Starts a cluster of its own, deploys two versions by one call each, sends the
held-out images through every door, promotes and rolls back, kills a replica and then management
under traffic, and stops everything. Exits with status 1 if anything is not as it must be.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tritonclient.grpc.aio as triton
import urllib3
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import skysail
from examples.digits import doors, model
from examples.digits.machines import MACHINES, Machine

console = Console(highlight=False, width=100 if not sys.stdout.isatty() else None)

MIN_ACCURACY = 0.93


class DemoFailed(Exception):
    """Something was not as it must be."""


def check(condition: bool, what: str) -> None:
    """Tell that `what` holds, or fail."""
    if not condition:
        raise DemoFailed(what)
    console.print(f"  [green]✓[/] {what}")


def title(text: str) -> None:
    """Begin a step."""
    console.print(f"\n[bold]{text}[/]")


@contextmanager
def cluster(machine: Machine) -> Iterator[dict[str, Any]]:
    """Run a cluster and yield how it is reached; stop it and look for remains."""
    command = [sys.executable, "-m", "skysail"]
    where = ["--data-dir", str(machine.data_dir)]

    def skysail_does(*words: str) -> None:
        done = subprocess.run([*command, *words], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise DemoFailed(f"skysail {words[0]}: {done.stderr.strip()}")

    try:
        skysail_does("up", *where, *machine.flags())
        with reached(machine, [*command, "forward", *where]) as endpoints:
            try:
                yield endpoints
            finally:
                machine.watch_end()
    finally:
        title("Stop")
        skysail_does("down", *where, *machine.down_flags())
        remains = machine.remains()
        check(not remains, f"nothing that it made is left {' '.join(remains)}".strip())


@contextmanager
def reached(machine: Machine, forward: list[str]) -> Iterator[dict[str, Any]]:
    """Yield how a cluster is reached; where management has no door to the outside, make one."""
    note = machine.data_dir / "cluster.json"
    endpoints = json.loads(note.read_text())
    if "management" in endpoints:
        yield endpoints
        return
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics", "management")]
    with subprocess.Popen(
        [*forward, *machine.forward_flags(), *ports], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            forwarded = json.loads(note.read_text())
            yield {**forwarded, **endpoints, "management": forwarded["management"]}
        finally:
            process.terminate()


async def through_every_door(client: skysail.AsyncClient, endpoints: dict[str, Any]) -> None:
    """Send the held-out images through every door and show a table."""
    images, labels = model.held_out()
    http = urllib3.connection_from_url(
        f"http://{endpoints['http']}", maxsize=doors.CALLERS, timeout=30
    )
    async with triton.InferenceServerClient(endpoints["grpc"]) as oip:
        reports = [
            await doors.measure(name, ask, images, labels)
            for name, ask in (
                ("SDK (QueryService)", doors.sdk(client)),
                ("tritonclient (OIP gRPC)", doors.open_inference_grpc(oip)),
                ("V2 REST", doors.open_inference_rest(http)),
                ("Clipper-style REST", doors.clipper_rest(http)),
            )
        ]
    table = Table(box=None, padding=(0, 2))
    for name, justify in (("door", "left"), ("images", "right"), ("accuracy", "right")):
        table.add_column(name, header_style="dim", justify=justify)  # type: ignore[arg-type]
    for name in ("p50", "p99"):
        table.add_column(name, header_style="dim", justify="right")
    for report in reports:
        table.add_row(
            report.door,
            str(len(images)),
            f"{report.accuracy:.1%}",
            f"{report.p50_ms:.1f} ms",
            f"{report.p99_ms:.1f} ms",
        )
    console.print(table)
    check(
        all(report.accuracy >= MIN_ACCURACY for report in reports)
        and len({report.accuracy for report in reports}) == 1,
        f"the same answers through every door ({doors.CALLERS} images under way at once)",
    )


async def answering_version(client: skysail.AsyncClient, version: str | None = None) -> str:
    """Return which version answers a query."""
    images, _ = model.held_out()
    prediction = await client.predict("digits-app", images[0], version=version)
    return prediction.version


async def traffic(client: skysail.AsyncClient, done: asyncio.Event) -> Counter[str]:
    """Ask without a pause until `done`; return how many queries had which outcome."""
    images, _ = model.held_out()
    outcomes: Counter[str] = Counter()

    async def caller(number: int) -> None:
        while not done.is_set():
            number += 1
            try:
                prediction = await client.predict("digits-app", images[number % len(images)])
            except skysail.SkysailError as error:
                outcomes[type(error).__name__] += 1
            else:
                outcomes[prediction.outcome] += 1

    await asyncio.gather(*(caller(20 * number) for number in range(8)))
    return outcomes


async def under_traffic(
    client: skysail.AsyncClient, what: str, disturb: Callable[[], Awaitable[None]]
) -> None:
    """Disturb the cluster while queries run, and check that each was answered by the model."""
    done = asyncio.Event()
    running = asyncio.ensure_future(traffic(client, done))
    await asyncio.sleep(0.5)
    try:
        await disturb()
        await asyncio.sleep(0.5)
    finally:
        done.set()
        outcomes = await running
    total = sum(outcomes.values())
    check(outcomes["OK"] == total, f"{what}: {total} of {total} queries answered by the model")


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float) -> float:
    """Return after how many seconds a condition held."""
    begin = time.monotonic()
    while time.monotonic() - begin < timeout_s:
        if await condition():
            return time.monotonic() - begin
        await asyncio.sleep(0.05)
    raise DemoFailed(f"{what}: not within {timeout_s:.0f} s")


async def kill_a_replica(client: skysail.AsyncClient, machine: Machine) -> None:
    """End a replica as the kernel would, and wait until another has its place."""
    version = await client.describe_version("digits", "1")
    victim = version.replicas[0].container_id
    await asyncio.to_thread(machine.kill_replica, victim)

    async def is_back() -> bool:
        found = await client.describe_version("digits", "1")
        names = {replica.container_id for replica in found.replicas}
        return victim not in names and found.num_ready == 2

    seconds = await until(is_back, "the replica is back", machine.recovery_timeout_s)
    check(True, f"replica killed with SIGKILL; a new one took its place after {seconds:.1f} s")


async def kill_management(client: skysail.AsyncClient, machine: Machine) -> None:
    """End management, and wait until the next one has taken its replicas over."""
    before = {replica.container_id for replica in await replicas(client)}
    victim = await asyncio.to_thread(machine.management)
    await asyncio.to_thread(machine.kill_management)

    async def is_back() -> bool:
        if await asyncio.to_thread(machine.management) in ("", victim):
            return False
        try:
            return {replica.container_id for replica in await replicas(client)} == before
        except skysail.SkysailError:
            return False

    seconds = await until(is_back, "management is back", machine.recovery_timeout_s)
    check(
        True,
        f"management {machine.how_killed}; back after {seconds:.1f} s with the same "
        f"{len(before)} replicas, none restarted",
    )


async def replicas(client: skysail.AsyncClient) -> list[skysail.Replica]:
    """Return every ready replica of the cluster."""
    return [
        replica
        for each in await client.models()
        for version in each.versions
        for replica in version.replicas
        if replica.state == "READY"
    ]


async def show_transport(client: skysail.AsyncClient) -> None:
    """Print what carries the queries, and a warning if it is the slower one."""
    transports = {each.transport for each in (await client.status()).frontends}
    console.print(f"  queries travel on the transport {' and '.join(sorted(transports))}")
    if transports != {"native"}:
        console.print(
            "  [yellow]! without the native transport each query costs several times as much;\n"
            "    install Rust, then run 'make transport'[/]"
        )


async def demo(machine: Machine, endpoints: dict[str, Any]) -> None:
    """Do the main job."""
    images, _ = model.held_out()
    async with skysail.AsyncClient(
        endpoints["management"], query_endpoint=endpoints["grpc"]
    ) as client:
        await show_transport(client)
        title("Deploy version 1: a random forest, 2 replicas, one call")
        forest = model.random_forest()
        begin = time.monotonic()
        await client.deploy(
            forest.predict,
            name="digits",
            version="1",
            example=images[:1],
            num_replicas=2,
            pkgs_to_install=machine.packages,
        )
        check(True, f"deployed, warmed up and promoted in {time.monotonic() - begin:.1f} s")
        await client.register_application(
            "digits-app", input_type="doubles", default_output=-1, slo_ms=5000
        )
        await client.link("digits-app", "digits")
        check(await answering_version(client) == "1", "version 1 answers")

        title("The held-out images through every door")
        await through_every_door(client, endpoints)

        title("Deploy version 2 beside it: a logistic regression, not promoted")
        regression = model.logistic_regression()
        await client.deploy(
            regression.predict,
            name="digits",
            version="2",
            example=images[:1],
            promote=False,
            pkgs_to_install=machine.packages,
        )
        check(await answering_version(client) == "1", "version 1 still answers")
        check(await answering_version(client, "2") == "2", "version 2 answers when asked for")
        await client.promote("digits", "2")
        check(await answering_version(client) == "2", "promoted: version 2 answers")
        await client.rollback("digits")
        check(await answering_version(client) == "1", "rolled back: version 1 answers")

        title("Kill a replica under traffic")
        await under_traffic(client, "no query lost", lambda: kill_a_replica(client, machine))
        title("Kill management under traffic")
        await under_traffic(client, "no query lost", lambda: kill_management(client, machine))


def main(container_manager: str = "local") -> int:
    """Run the demo and return the exit status."""
    begin = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="skysail-demo-") as directory:
            machine = MACHINES[container_manager](Path(directory))
            if missing := machine.missing():
                raise DemoFailed(missing)
            console.print("[bold cyan]Skysail[/] on scikit-learn's handwritten digits")
            with cluster(machine) as endpoints:
                console.print(
                    f"  cluster on gRPC {endpoints['grpc']}, HTTP {endpoints['http']}, "
                    f"management {endpoints['management']}"
                )
                asyncio.run(demo(machine, endpoints))
    except (
        DemoFailed,
        AssertionError,
        skysail.SkysailError,
        subprocess.CalledProcessError,
    ) as error:
        console.print(f"  [red]✗ {escape(str(error))}[/]", soft_wrap=True)
        return 1
    console.print(f"\n[bold green]Everything held[/], in {time.monotonic() - begin:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

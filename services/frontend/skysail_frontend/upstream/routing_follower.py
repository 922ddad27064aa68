"""The follower of management: turns routing snapshots into routes and links to replicas.

A file keeps the latest snapshot, so that a frontend that starts while management is unavailable
serves the latest routes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio
from google.protobuf.message import DecodeError

from skysail_common.errors import InvalidInput, SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_common.process.backoff import BackOff
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.rpc.channels import KeepAlive
from skysail_common.rpc.contract import Connector
from skysail_common.rpc.management_access import ManagementAccess
from skysail_common.rpc.messages import latencies_to_proto
from skysail_common.rpc.statuses import from_rpc_error
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.load import LoadMeter
from skysail_frontend.core.routes import ReplicaEndpoint, ServedVersion
from skysail_frontend.upstream.replica_link import ReplicaLink
from skysail_frontend.upstream.routing_messages import load_to_proto, table_from_proto
from skysail_frontend.upstream.snapshot_file import SnapshotFile
from skysail_protos.v1 import management_pb2, management_pb2_grpc, routing_pb2

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 2.0
_KEEP_ALIVE = KeepAlive(5.0, 5.0)
"""Keep-alive by which the frontend notices within 10 s that management has vanished."""


class RoutingFollower:
    """Keeps the routes and replica links of a dispatcher as management defines them."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        connector: Connector,
        snapshot_file: Path | None,
        report_every_s: float,
    ) -> None:
        self._dispatcher = dispatcher
        self._connector = connector
        self._snapshot_file = snapshot_file
        self._file = SnapshotFile(snapshot_file)
        self._report_every_s = report_every_s
        self._links: dict[tuple[str, ReplicaEndpoint], ReplicaLink] = {}
        """Links by the identity of their version and their endpoint."""
        self._tasks = BackgroundTasks()
        self._loads_wanted = asyncio.Event()
        self.has_routes = asyncio.Event()
        """Set once routes exist, from management or from the file."""

    async def is_ready(self) -> bool:
        """Return whether routes exist."""
        return self.has_routes.is_set()

    def load_snapshot(self) -> None:
        """Apply the snapshot of the file, if the file exists."""
        if self._snapshot_file is None or not self._snapshot_file.exists():
            return
        try:
            snapshot = routing_pb2.RoutingSnapshot.FromString(self._snapshot_file.read_bytes())
            if not snapshot.sequence:
                raise InvalidInput("the file is empty")
            table_from_proto(snapshot)
        except (OSError, DecodeError, InvalidInput) as error:
            log.warning("snapshot file not usable", extra={"error": str(error)})
            return
        if self._try_apply(snapshot):
            log.info("snapshot file applied", extra={"sequence": snapshot.sequence})

    async def follow(
        self,
        endpoint: str,
        introduction: management_pb2.WatchRoutingRequest,
        access: Callable[[], ManagementAccess] = ManagementAccess,
    ) -> None:
        """Apply every snapshot that management sends, and reconnect forever.

        Args:
            endpoint: Endpoint of management.
            introduction: First message of each stream, which identifies the frontend.
            access: Returns the credentials for management; called for each connection.
        """
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            # Each attempt uses a new channel, because gRPC delays the attempts of a failed channel
            # longer and longer.
            try:
                async with access().open_channel(endpoint, keep_alive=_KEEP_ALIVE) as channel:
                    stub = management_pb2_grpc.ManagementServiceStub(channel)
                    await self._follow_once(stub, introduction, back_off)
                error: Exception = SkysailError("the stream ended")
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            except (SkysailError, asyncio.InvalidStateError) as ended:
                # A credential file may be missing for a moment while it is renewed. gRPC raises
                # InvalidStateError if the stream ended just before an acknowledgement.
                error = ended
            level = logging.WARNING if back_off.is_reset else logging.DEBUG
            log.log(level, "management unavailable; serving on", extra={"error": str(error)})
            await asyncio.sleep(back_off.next_s())

    async def _follow_once(
        self,
        stub: "management_pb2_grpc.ManagementServiceAsyncStub",
        introduction: management_pb2.WatchRoutingRequest,
        back_off: BackOff,
    ) -> None:
        """Apply the snapshots of one stream, and acknowledge each that is applied."""
        call = stub.WatchRouting()
        await call.write(introduction)
        # gRPC accepts one write at a time.
        lock = asyncio.Lock()

        async def send(message: management_pb2.WatchRoutingRequest) -> None:
            async with lock:
                await call.write(message)

        async def apply_snapshots() -> None:
            while isinstance(snapshot := await call.read(), routing_pb2.RoutingSnapshot):
                back_off.reset()
                if self._apply_and_save(snapshot):
                    applied = snapshot.sequence
                    await send(management_pb2.WatchRoutingRequest(applied_sequence=applied))

        reading = asyncio.create_task(apply_snapshots(), name="apply snapshots")
        tasks = {
            reading,
            asyncio.create_task(
                _until_stream_ends(self._report_latencies(send), reading), name="report latencies"
            ),
            asyncio.create_task(
                _until_stream_ends(self._report_loads(send), reading), name="report loads"
            ),
        }
        try:
            # The stream ends if any task does. Otherwise management would delay every change for
            # this frontend, or would not scale by its load.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _report_latencies(
        self, send: Callable[[management_pb2.WatchRoutingRequest], Awaitable[None]]
    ) -> None:
        """Report the learned latencies of versions to management."""
        reported: dict[ModelVersion, int] = {}
        while True:
            await asyncio.sleep(self._report_every_s)
            message = management_pb2.WatchRoutingRequest()
            for name in self._dispatcher.table.versions:
                version = self._dispatcher.version(name)
                if version is None:
                    continue
                profile = version.batcher.profile
                if profile.num_observed != reported.get(name, 0):
                    reported[name] = profile.num_observed
                    points = latencies_to_proto(profile.points())
                    message.latencies.add(
                        model=name.model_name, version=name.version, points=points
                    )
            if message.latencies:
                await send(message)

    async def _report_loads(
        self, send: Callable[[management_pb2.WatchRoutingRequest], Awaitable[None]]
    ) -> None:
        """Report the load of versions to management, which scales them by it."""
        while True:
            await self._loads_wanted.wait()
            # Loads of the time before the reports are not needed.
            loads = LoadMeter()
            while self._loads_wanted.is_set():
                wanted = {
                    name: served.load_report_interval_s
                    for name, served in self._dispatcher.table.versions.items()
                    if served.load_report_interval_s is not None
                }
                message = management_pb2.WatchRoutingRequest()
                for name in wanted:
                    version = self._dispatcher.version(name)
                    load = version and loads.measure(version, self._dispatcher.clock())
                    if load:
                        message.loads.append(load_to_proto(name, load))
                loads.keep_only(wanted)
                if message.loads:
                    await send(message)
                await asyncio.sleep(min(wanted.values()))

    def _try_apply(self, snapshot: routing_pb2.RoutingSnapshot) -> bool:
        """Apply a snapshot and return True; on failure log the reason and return False."""
        is_applied = False
        try:
            self._apply(snapshot)
            is_applied = True
        except InvalidInput as error:
            log.error("routes invalid; serving on", extra={"error": error.message})
        except Exception:
            # The next snapshot is complete again, and may succeed.
            log.exception("routes not applied; serving on")
        self._dispatcher.statistics.has_stale_routes = not is_applied
        return is_applied

    def _apply_and_save(self, snapshot: routing_pb2.RoutingSnapshot) -> bool:
        if not self._try_apply(snapshot):
            return False
        log.info(
            "routes applied",
            extra={
                "sequence": snapshot.sequence,
                "applications": len(snapshot.applications),
                "versions": len(snapshot.versions),
            },
        )
        self._file.save(snapshot)
        return True

    def _apply(self, snapshot: routing_pb2.RoutingSnapshot) -> None:
        table = table_from_proto(snapshot)
        self._dispatcher.apply(table)
        if any(served.load_report_interval_s is not None for served in table.versions.values()):
            self._loads_wanted.set()
        else:
            self._loads_wanted.clear()
        wanted = {
            (served.identity, replica): served
            for served in table.versions.values()
            for replica in served.replicas
        }
        for key in self._links.keys() - wanted.keys():
            self._links.pop(key).drain()
        for key in wanted.keys() - self._links.keys():
            self._links[key] = self._add_link(wanted[key], key[1])
        self.has_routes.set()

    def _add_link(self, served: ServedVersion, endpoint: ReplicaEndpoint) -> ReplicaLink:
        version = self._dispatcher.version(served.name)
        assert version is not None
        link = ReplicaLink(endpoint, version, self._dispatcher, self._connector)
        version.replicas.append(link)
        work = self._tasks.start(link.run(), f"replica {endpoint.container_id}")
        # A draining link stays until its batches in flight are answered.
        work.add_done_callback(lambda _: version.replicas.remove(link))
        return link

    async def stop(self) -> None:
        """Close all links."""
        await self._tasks.stop()
        await self._file.close()


async def _until_stream_ends(reports: Awaitable[None], reading: "asyncio.Task[None]") -> None:
    """Run reports until they fail or the stream ends; in that case the reader has the reason."""
    try:
        await reports
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await asyncio.wait({reading})
    except Exception as error:
        log.exception("reports to management ended")
        raise SkysailError(
            "cannot report to management: an internal error ended the reports; see the log"
        ) from error

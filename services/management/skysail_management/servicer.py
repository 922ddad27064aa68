"""ManagementService: each method converts the request, makes one call, and converts the result."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from skysail_common import __version__
from skysail_common.errors import InvalidInput, Unsupported
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.messages import (
    input_type_from_proto,
    seconds,
    serving_changes,
    serving_to_proto,
)
from skysail_management import messages
from skysail_management.artifact_servicer import ArtifactServicer
from skysail_management.artifacts.blobs import BlobId
from skysail_management.artifacts.store import ArtifactStore
from skysail_management.autoscaler import Autoscaler
from skysail_management.operations.applications import Applications
from skysail_management.operations.deployments import Deployments
from skysail_management.operations.models import Models
from skysail_management.ownership.keeper import StoreKeeper
from skysail_management.profiles import Profiles
from skysail_management.reconciler.reconciler import Reconciler
from skysail_management.records import AutoscalingRecord, Records, RouteRecord, VersionRecord
from skysail_management.routing import Routing, Watcher
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import management_pb2_grpc, routing_pb2

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_TAIL_LINES = 100
_MAX_TAIL_LINES = 100_000


class ManagementServicer(management_pb2_grpc.ManagementServiceServicer):
    """Serves operators, model servers and frontends."""

    def __init__(
        self,
        *,
        cluster: str,
        container_manager: str,
        keeper: StoreKeeper,
        records: Records,
        artifacts: ArtifactStore,
        downloads: ArtifactServicer | None,
        applications: Applications,
        models: Models,
        deployments: Deployments,
        profiles: Profiles,
        autoscaler: Autoscaler,
        reconciler: Reconciler,
        routing: Routing,
        default_max_batch_size: int,
        load_report_interval_s: float,
    ) -> None:
        """Serve the operations; without `downloads`, another port serves artifacts."""
        self._cluster = cluster
        self._container_manager = container_manager
        self._keeper = keeper
        self._records = records
        self._artifacts = artifacts
        self._downloads = downloads
        self._applications = applications
        self._models = models
        self._deployments = deployments
        self._profiles = profiles
        self._autoscaler = autoscaler
        self._reconciler = reconciler
        self._routing = routing
        self._default_max_batch_size = default_max_batch_size
        self._load_report_interval_s = load_report_interval_s

    async def RegisterApplication(
        self, request: pb.RegisterApplicationRequest, context: Context
    ) -> pb.RegisterApplicationResponse:
        spec = messages.application_spec_from_proto(request.application)
        record = await self._applications.register(
            spec.name,
            input_type_from_proto(request.application.input_type),
            spec.slo_s,
            spec.default_output_json,
            bypasses_cache=spec.bypasses_cache,
        )
        return pb.RegisterApplicationResponse(application=messages.application_to_proto(record))

    async def UpdateApplication(
        self, request: pb.UpdateApplicationRequest, context: Context
    ) -> pb.UpdateApplicationResponse:
        record = await self._applications.update(
            request.name,
            seconds("slo", request.slo) if request.HasField("slo") else None,
            request.default_output_json if request.HasField("default_output_json") else None,
            request.bypasses_cache if request.HasField("bypasses_cache") else None,
            removes_default_output=request.removes_default_output,
        )
        return pb.UpdateApplicationResponse(application=messages.application_to_proto(record))

    async def UnregisterApplication(
        self, request: pb.UnregisterApplicationRequest, context: Context
    ) -> pb.UnregisterApplicationResponse:
        await self._applications.unregister(request.name)
        return pb.UnregisterApplicationResponse()

    async def ListApplications(
        self, request: pb.ListApplicationsRequest, context: Context
    ) -> pb.ListApplicationsResponse:
        records = self._applications.all()
        return pb.ListApplicationsResponse(
            applications=[messages.application_to_proto(record) for record in records]
        )

    async def DescribeApplication(
        self, request: pb.DescribeApplicationRequest, context: Context
    ) -> pb.DescribeApplicationResponse:
        record = self._applications.get(request.name)
        return pb.DescribeApplicationResponse(application=messages.application_to_proto(record))

    async def SetRoutes(
        self, request: pb.SetRoutesRequest, context: Context
    ) -> pb.SetRoutesResponse:
        routes = [
            RouteRecord(model=route.model, version=route.version, weight=route.weight)
            for route in request.routes
        ]
        record = await self._applications.set_routes(request.application, routes)
        return pb.SetRoutesResponse(application=messages.application_to_proto(record))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self._all_models())

    async def DescribeModel(
        self, request: pb.DescribeModelRequest, context: Context
    ) -> pb.DescribeModelResponse:
        record = self._models.get(request.name)
        versions = [self._version(version) for version in self._models.versions(record.name)]
        return pb.DescribeModelResponse(model=messages.model_to_proto(record, versions))

    async def UnregisterModel(
        self, request: pb.UnregisterModelRequest, context: Context
    ) -> pb.UnregisterModelResponse:
        await self._models.unregister(request.name)
        return pb.UnregisterModelResponse()

    async def RegisterVersion(
        self, request: pb.RegisterVersionRequest, context: Context
    ) -> pb.RegisterVersionResponse:
        record = await self._models.register(
            ModelVersion(request.model, request.version), request.artifact_sha256, request.labels
        )
        return pb.RegisterVersionResponse(version=self._version(record))

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        records = self._models.versions(request.model)
        return pb.ListVersionsResponse(versions=[self._version(record) for record in records])

    async def DescribeVersion(
        self, request: pb.DescribeVersionRequest, context: Context
    ) -> pb.DescribeVersionResponse:
        record = self._models.version(request.model, request.version)
        return pb.DescribeVersionResponse(version=self._version(record))

    async def UnregisterVersion(
        self, request: pb.UnregisterVersionRequest, context: Context
    ) -> pb.UnregisterVersionResponse:
        await self._models.unregister_version(ModelVersion(request.model, request.version))
        return pb.UnregisterVersionResponse()

    async def FindArtifact(
        self, request: pb.FindArtifactRequest, context: Context
    ) -> pb.FindArtifactResponse:
        return pb.FindArtifactResponse(is_stored=await self._artifacts.find(request.sha256))

    async def FindBlobs(
        self, request: pb.FindBlobsRequest, context: Context
    ) -> pb.FindBlobsResponse:
        blobs = [BlobId(blob.sha256, blob.size_bytes) for blob in request.blobs]
        missing = await self._artifacts.blobs.find(blobs)
        return pb.FindBlobsResponse(
            missing=[
                pb.MissingBlob(sha256=sha256, stored_bytes=stored)
                for sha256, stored in missing.items()
            ]
        )

    async def UploadBlobs(
        self, request_iterator: AsyncIterator[pb.UploadBlobsRequest], context: Context
    ) -> pb.UploadBlobsResponse:
        num_bytes = await self._artifacts.blobs.add(messages.blob_parts(request_iterator))
        return pb.UploadBlobsResponse(num_bytes=num_bytes)

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[pb.UploadArtifactRequest], context: Context
    ) -> pb.UploadArtifactResponse:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("part") != "sha256":
            raise InvalidInput("the first message of an upload must contain its sha256")

        async def chunks() -> AsyncIterator[bytes]:
            async for request in request_iterator:
                yield request.chunk

        size = await self._artifacts.add(first.sha256, chunks())
        return pb.UploadArtifactResponse(size_bytes=size)

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        async for response in self._own_downloads.DownloadArtifact(request, context):
            yield response

    async def DownloadBlob(
        self, request: pb.DownloadBlobRequest, context: Context
    ) -> AsyncIterator[pb.DownloadBlobResponse]:
        async for response in self._own_downloads.DownloadBlob(request, context):
            yield response

    async def Deploy(
        self, request: pb.DeployRequest, context: Context
    ) -> AsyncIterator[pb.DeployEvent]:
        version = ModelVersion(request.model, request.version)
        spec = messages.deployment_spec_from_proto(request, self._default_max_batch_size)
        async for event in self._deployments.deploy(version, spec):
            yield messages.event_to_proto(event)

    async def Undeploy(self, request: pb.UndeployRequest, context: Context) -> pb.UndeployResponse:
        version = await self._deployments.undeploy(request.model, request.version, request.force)
        return pb.UndeployResponse(version=version)

    async def Promote(self, request: pb.PromoteRequest, context: Context) -> pb.PromoteResponse:
        previous = await self._models.promote(ModelVersion(request.model, request.version))
        return pb.PromoteResponse(previous_version=previous)

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:
        version, previous = await self._models.rollback(request.model)
        return pb.RollbackResponse(version=version, previous_version=previous)

    async def SetServingOptions(
        self, request: pb.SetServingOptionsRequest, context: Context
    ) -> pb.SetServingOptionsResponse:
        changes = serving_changes(
            request.serving,
            self._default_max_batch_size,
            request.update_mask.paths if request.HasField("update_mask") else None,
        )
        deployment = await self._deployments.tune(request.model, request.version, changes)
        return pb.SetServingOptionsResponse(
            version=deployment.version, serving=serving_to_proto(deployment.serving)
        )

    async def Scale(self, request: pb.ScaleRequest, context: Context) -> pb.ScaleResponse:
        version = await self._deployments.scale(
            request.model, request.version, request.num_replicas
        )
        return pb.ScaleResponse(version=version)

    async def SetAutoscaling(
        self, request: pb.SetAutoscalingRequest, context: Context
    ) -> pb.SetAutoscalingResponse:
        bounds = None
        if request.HasField("autoscaling"):
            bounds = AutoscalingRecord(
                min_replicas=request.autoscaling.min_replicas,
                max_replicas=request.autoscaling.max_replicas,
            )
        deployment = await self._deployments.set_autoscaling(request.model, request.version, bounds)
        return pb.SetAutoscalingResponse(
            version=deployment.version, num_replicas=deployment.num_replicas
        )

    async def WatchRouting(
        self, request_iterator: AsyncIterator[pb.WatchRoutingRequest], context: Context
    ) -> AsyncIterator[routing_pb2.RoutingSnapshot]:
        first = await anext(request_iterator, None)
        if first is None or not first.frontend_id:
            raise InvalidInput("the first message must contain the frontend_id")
        watcher = Watcher(
            first.frontend_id,
            first.grpc_endpoint,
            first.http_endpoint,
            transport=first.transport,
        )

        async def read_reports() -> None:
            async for request in request_iterator:
                self._routing.acknowledge(watcher, request.applied_sequence)
                await self._profiles.take(request.latencies)
                await self._autoscaler.take(watcher.frontend_id, request.loads)

        with self._routing.attach(watcher):
            reports = asyncio.create_task(read_reports(), name=f"reports of {watcher.frontend_id}")
            watcher.follow(reports)
            try:
                async for sequence, state in self._routing.snapshots(watcher):
                    yield messages.snapshot_to_proto(
                        self._cluster,
                        sequence,
                        state,
                        self._profiles.latencies,
                        self._load_report_interval_s,
                    )
            finally:
                reports.cancel()
                # A failure of the task already ended the stream.
                await asyncio.wait({reports})
                self._autoscaler.forget(watcher.frontend_id)

    async def StreamLogs(
        self, request: pb.StreamLogsRequest, context: Context
    ) -> AsyncIterator[pb.StreamLogsResponse]:
        containers = self._deployments.replicas(
            request.model, request.version, request.replica if request.HasField("replica") else None
        )
        wanted = request.tail_lines if request.HasField("tail_lines") else _DEFAULT_TAIL_LINES
        tail_lines = min(wanted, _MAX_TAIL_LINES)
        async for replica_id, line in self._deployments.logs(
            containers, tail_lines, request.follow
        ):
            yield pb.StreamLogsResponse(replica_id=replica_id, line=line)

    async def GetClusterStatus(
        self, request: pb.GetClusterStatusRequest, context: Context
    ) -> pb.GetClusterStatusResponse:
        await self._keeper.check()
        return pb.GetClusterStatusResponse(
            cluster=self._cluster,
            skysail_version=__version__,
            container_manager=self._container_manager,
            is_store_reachable=self._keeper.is_reachable,
            store_problem=self._keeper.problem,
            applications=[
                messages.application_to_proto(record) for record in self._applications.all()
            ],
            models=self._all_models(),
            frontends=[messages.frontend_to_proto(each) for each in self._routing.frontends],
        )

    async def RestoreStore(
        self, request: pb.RestoreStoreRequest, context: Context
    ) -> pb.RestoreStoreResponse:
        num_records = await self._keeper.restore(self._records)
        return pb.RestoreStoreResponse(num_records=num_records)

    @property
    def _own_downloads(self) -> ArtifactServicer:
        if self._downloads is None:
            raise Unsupported(
                "cannot serve artifacts on this port: management has an artifact port; use that one"
            )
        return self._downloads

    def _version(self, record: VersionRecord) -> pb.Version:
        deployment = self._records.deployments.get(str(record.model_version))
        loop = self._reconciler.version_loop(record.model_version)
        model = self._records.models.get(record.model)
        is_current = model is not None and model.current_version == record.version
        return messages.version_to_proto(record, deployment, loop, is_current=is_current)

    def _all_models(self) -> list[pb.Model]:
        versions: dict[str, list[pb.Version]] = {}
        for record in self._models.versions():
            versions.setdefault(record.model, []).append(self._version(record))
        return [
            messages.model_to_proto(record, versions.get(record.name, []))
            for record in self._models.all()
        ]

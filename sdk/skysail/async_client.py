"""The client for asyncio; `client.Client` is the same without it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc.aio
from typing_extensions import Self

from skysail.application_requests import (
    NOT_GIVEN,
    register_request,
    routes_request,
    update_request,
)
from skysail.artifact import Artifact, build_artifact
from skysail.deployment_requests import (
    autoscaling_request,
    deploy_request,
    scale_request,
    upload_requests,
)
from skysail.descriptions import (
    Application,
    ClusterStatus,
    DeployEvent,
    LogLine,
    Model,
    Route,
    Version,
)
from skysail.predictions import Prediction, encode_input, prediction_of, shape_told
from skysail.query_stream import QueryStream
from skysail.reaching import management_error
from skysail.requirements import read_requirements
from skysail.settings import ClientSettings
from skysail.tls import client_tls
from skysail_common.clock import MONOTONIC
from skysail_common.errors import (
    ArtifactNotFound,
    DeadlineExceeded,
    DeployFailed,
    InvalidInput,
    ModelFailed,
    SkysailError,
    Unavailable,
)
from skysail_common.functions import Function
from skysail_common.rpc.channels import open_channel
from skysail_common.rpc.messages import serving_from_proto, serving_to_proto
from skysail_common.rpc.statuses import call, stream
from skysail_common.serving_options import ServingOptions
from skysail_protos.v1 import management_pb2, management_pb2_grpc, query_pb2

_DEPLOY_TIMEOUT_S = 3600.0
_UPLOAD_TIMEOUT_S = 3600.0
_SCALE_CHECK_S = 0.1
_MAX_CONCURRENT = 256

ResponseT = TypeVar("ResponseT")


OnEvent = Callable[[DeployEvent], None]


class AsyncClient:
    """Deploys models to a cluster and queries them.

    It connects when it is first used. Errors are the server's own classes (`skysail.errors`).
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        query_endpoint: str | None = None,
        tls_ca_file: str | Path | None = None,
        tls_certificate_file: str | Path | None = None,
        tls_key_file: str | Path | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """A client of one cluster.

        Args:
            endpoint: Where management is reached, as host:port. If None, `SKYSAIL_ENDPOINT`;
                else the local cluster that `skysail up` runs.
            query_endpoint: Where a frontend's gRPC services are reached. If None, management is
                asked for one.
            tls_ca_file: Authorities that certificates of frontends must be of, in PEM: queries go
                over TLS. If None, `SKYSAIL_TLS_CA_FILE`; without that in the clear. Management is
                always asked in the clear.
            tls_certificate_file: Certificate to show to frontends that ask for one. If None,
                `SKYSAIL_TLS_CERTIFICATE_FILE`.
            tls_key_file: Its key. If None, `SKYSAIL_TLS_KEY_FILE`.
            timeout_s: Longest wait for an answer, unless a call says otherwise.

        Raises:
            FailedPrecondition: a file of TLS is missing or is of no use.
        """
        settings = ClientSettings()
        self.endpoint = endpoint or settings.find_endpoint()
        self._is_noted = not endpoint and not settings.endpoint
        self._query_endpoint = query_endpoint
        self._timeout_s = timeout_s
        self._management_channel: grpc.aio.Channel | None = None
        tls = client_tls(
            tls_ca_file or settings.tls_ca_file,
            tls_certificate_file or settings.tls_certificate_file,
            tls_key_file or settings.tls_key_file,
        )
        self._queries = QueryStream(self._find_frontends, tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._queries.close()
        if self._management_channel is not None:
            await self._management_channel.close()
            self._management_channel = None

    @property
    def _management(self) -> "management_pb2_grpc.ManagementServiceAsyncStub":
        if self._management_channel is None:
            self._management_channel = open_channel(self.endpoint)
        return management_pb2_grpc.ManagementServiceStub(self._management_channel)

    async def _call(self, response: Awaitable[ResponseT]) -> ResponseT:
        """Await a response of management."""
        return await call(response, self._told)

    def _told(self, error: grpc.aio.AioRpcError) -> SkysailError:
        return management_error(error, self.endpoint)

    async def _find_frontends(self) -> list[str]:
        return [self._query_endpoint] if self._query_endpoint else await self._frontends("grpc")

    async def _frontends(self, door: str) -> list[str]:
        # Frontends on Kubernetes tell management how they are reached there, not how from here.
        if self._is_noted and (noted := ClientSettings().noted(door)):
            return [noted]
        frontends = (await self.status()).frontends
        if not frontends:
            raise Unavailable(f"no frontend follows management at {self.endpoint}")
        endpoints = [getattr(each, f"{door}_endpoint") for each in frontends]
        return random.sample(endpoints, len(endpoints))

    async def get_query_addr(self) -> str:
        """Return where a frontend answers queries over HTTP, as host:port.

        Raises:
            Unavailable: management does not answer, or no frontend follows it.
        """
        return (await self._frontends("http"))[0]

    async def predict(
        self,
        target: str,
        input: Any,  # noqa: A002 - Clipper's own word, which users know.
        *,
        version: str | int | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Return the prediction for one input.

        Args:
            target: Name of an application; where there is none of that name, of a model.
            input: A number, text, bytes, list or array, without a batch axis; or a dictionary of
                such by name. Numbers are converted to what the model takes.
            version: Version that must answer; the routes decide if None.
            timeout_s: Longest wait in seconds; an application's SLO may be shorter.

        Raises:
            NotFound: there is no such application, model or version.
            InvalidInput: the input is not what the model takes.
            DeadlineExceeded, NoReadyReplica, Overloaded, ModelFailed: there is no prediction,
                and the application has no default output.
            Unavailable: the cluster is not reached.
        """
        try:
            return await self._predict(target, input, version, timeout_s)
        except InvalidInput as error:
            error.args = (shape_told(error.message, "predict takes one input", "predict_batch"),)
            raise

    async def _predict(
        self, target: str, value: Any, version: str | int | None, timeout_s: float | None
    ) -> Prediction:
        timeout_s = timeout_s or self._timeout_s
        request = query_pb2.PredictRequest(
            target=target,
            version="" if version is None else str(version),
            inputs=encode_input(value),
        )
        return prediction_of(await self._queries.ask(request, timeout_s))

    async def predict_batch(
        self,
        target: str,
        inputs: Sequence[Any],
        *,
        version: str | int | None = None,
        timeout_s: float | None = None,
    ) -> list[Prediction]:
        """Return the predictions for many inputs, in order.

        Each input is a query of its own, with its own deadline; Skysail forms the batches.

        Args:
            target: As for `predict`.
            inputs: One element each; the rows of an array, for instance.
            version: As for `predict`.
            timeout_s: Longest wait for each of them, in seconds.

        Raises:
            SkysailError: as `predict`, for the first input that has no prediction; where the
                fault is in the input the message begins with its index.
        """
        room = asyncio.Semaphore(_MAX_CONCURRENT)

        async def ask(index: int, value: Any) -> Prediction:
            async with room:
                try:
                    return await self._predict(target, value, version, timeout_s)
                except (InvalidInput, ModelFailed) as error:
                    text = shape_told(error.message, "predict_batch takes inputs")
                    error.args = (f"input {index}: {text}",)
                    raise

        tasks = [asyncio.ensure_future(ask(*each)) for each in enumerate(inputs)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def deploy(
        self,
        function: Function,
        *,
        name: str,
        version: str | int,
        example: Any = None,
        input_type: str | None = None,
        num_replicas: int = 1,
        pkgs_to_install: Sequence[str] = (),
        requirements: str | Path | None = None,
        promote: bool = True,
        labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        num_threads: int = 0,
        memory_mib: int = 0,
        cpus: float = 0.0,
        gpus: int = 0,
        max_batch_size: int | None = None,
        start_timeout_s: float | None = None,
        on_event: OnEvent | None = None,
    ) -> Version:
        """Deploy a function as a version of a model and return once its replicas are ready.

        The same content again under the same version changes nothing; another one is refused.

        Args:
            function: Takes arrays [batch, …] and returns arrays [batch, …]; with `input_type`
                takes a list and returns a list. It is pickled with the local modules it uses.
            name: Name of the model.
            version: Version; any legal name, such as "1", "1.0" or "2024-06-01".
            example: Input that the function can answer, with its batch axis, such as `X[:1]`, or
                a dictionary of such by name. Teaches the signature and warms each replica up.
            input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`, in place of an
                example.
            num_replicas: Replicas wanted, at least 1.
            pkgs_to_install: Packages for pip, as of a requirements file; a str is one of them.
            requirements: A requirements file with more of them.
            promote: True to make it the current version once it is ready.
            labels: Words of your own.
            environment: Environment variables of the replicas.
            num_threads: Threads of the numeric libraries; 0 for as many as `cpus`, or where that
                is 0 too, a share of the machine's cores.
            memory_mib: Memory of a replica in MiB; 0 for no limit.
            cpus: CPUs of a replica, also parts of one; 0 for the server's default. A replica that
                is a process of the machine has so many threads, and is not held to them.
            gpus: GPUs of a replica for itself; 0 for the server's default.
            max_batch_size: Most rows of one batch; the server's default if None.
            start_timeout_s: Longest time from start to ready; the server's default if None.
            on_event: Is told each step. Without it `Client` shows them on a terminal.

        Raises:
            InvalidInput: the function cannot be pickled, or an argument is out of range.
            Unsupported: the cluster's container manager cannot give a replica such resources.
            ModelFailed: the function fails on the example.
            AlreadyExists: the version is registered with other content.
            DeployFailed: it could not be made ready; the message has the end of the replica's
                log, and nothing is left behind.
        """
        artifact = build_artifact(
            function,
            example=example,
            input_type=input_type,
            requirements=read_requirements(pkgs_to_install, requirements),
        )
        request = deploy_request(
            name=name,
            version=version,
            num_replicas=num_replicas,
            promote=promote,
            labels=labels,
            environment=environment,
            num_threads=num_threads,
            memory_mib=memory_mib,
            cpus=cpus,
            gpus=gpus,
            max_batch_size=max_batch_size,
            start_timeout_s=start_timeout_s,
        )
        return await self.deploy_artifact(artifact, request, on_event)

    async def deploy_artifact(
        self,
        artifact: Artifact,
        request: management_pb2.DeployRequest,
        on_event: OnEvent | None = None,
    ) -> Version:
        """Upload an artifact and deploy it as `request` says; see `deploy`."""
        request.artifact_sha256 = artifact.sha256
        await self._upload(artifact)
        try:
            await self._follow(request, on_event)
        except ArtifactNotFound:
            # It was swept between the upload and now.
            await self._upload(artifact)
            await self._follow(request, on_event)
        return await self.describe_version(request.model, request.version)

    async def _upload(self, artifact: Artifact) -> None:
        found = await self._call(
            self._management.FindArtifact(
                management_pb2.FindArtifactRequest(sha256=artifact.sha256),
                timeout=self._timeout_s,
            )
        )
        if found.is_stored:
            return
        requests = upload_requests(artifact)
        await self._call(self._management.UploadArtifact(requests, timeout=_UPLOAD_TIMEOUT_S))

    async def _follow(
        self, request: management_pb2.DeployRequest, on_event: OnEvent | None
    ) -> None:
        events = stream(self._management.Deploy(request, timeout=_DEPLOY_TIMEOUT_S), self._told)
        async for message in events:
            event = DeployEvent.of(message)
            if on_event is not None:
                on_event(event)
            if event.step == "FAILED":
                tail = f"\n{event.log_tail.rstrip()}" if event.log_tail else ""
                error = DeployFailed(f"{event.message}{tail}")
                error.log_tail = event.log_tail
                raise error

    async def register_application(
        self,
        name: str,
        input_type: str = "tensors",
        default_output: Any = NOT_GIVEN,
        slo_ms: float = 100.0,
    ) -> Application:
        """Make an application known; the same again changes nothing.

        Args:
            name: Name of the application.
            input_type: `tensors` (anything), `integers`, `floats`, `doubles`, `bytes` or
                `strings`.
            default_output: The answer where no prediction is in time, as a JSON value. Without
                one such a query ends with an error.
            slo_ms: Promised latency in milliseconds.

        Raises:
            AlreadyExists: one of this name promises something else.
            InvalidInput: an illegal name, type, SLO or default output.
        """
        request = register_request(name, input_type, default_output, slo_ms)
        response = await self._call(
            self._management.RegisterApplication(request, timeout=self._timeout_s)
        )
        return Application.of(response.application)

    async def update_application(
        self,
        name: str,
        *,
        slo_ms: float | None = None,
        default_output: Any = NOT_GIVEN,
        uses_cache: bool | None = None,
    ) -> Application:
        """Change the SLO, the default output or the use of the cache of an application.

        Raises:
            ApplicationNotFound: there is none of this name.
        """
        request = update_request(name, slo_ms, default_output, uses_cache)
        response = await self._call(
            self._management.UpdateApplication(request, timeout=self._timeout_s)
        )
        return Application.of(response.application)

    async def unregister_application(self, name: str) -> None:
        """Remove an application.

        Raises:
            ApplicationNotFound: there is none of this name.
        """
        request = management_pb2.UnregisterApplicationRequest(name=name)
        await self._call(self._management.UnregisterApplication(request, timeout=self._timeout_s))

    async def link(
        self, application: str, model: str, version: str | int | None = None
    ) -> Application:
        """Route all queries of an application to a model.

        Args:
            application: Name of the application.
            model: Name of the model.
            version: Version that answers; if None whichever is current.

        Raises:
            ApplicationNotFound, ModelNotFound: one of them is not registered.
            InputTypeMismatch: the model takes something else than the application.
        """
        return await self.set_routes(
            application, [Route(model, "" if version is None else str(version))]
        )

    async def unlink(self, application: str) -> Application:
        """Route an application to nothing.

        Raises:
            ApplicationNotFound: there is none of this name.
        """
        return await self.set_routes(application, [])

    async def set_routes(self, application: str, routes: Sequence[Route]) -> Application:
        """Replace the routes of an application; queries are shared by their weights.

        Raises:
            ApplicationNotFound, ModelNotFound: one of them is not registered.
            InputTypeMismatch: a model takes something else than the application.
        """
        request = routes_request(application, routes)
        response = await self._call(self._management.SetRoutes(request, timeout=self._timeout_s))
        return Application.of(response.application)

    async def applications(self) -> list[Application]:
        """Return every application, by name."""
        response = await self._call(
            self._management.ListApplications(
                management_pb2.ListApplicationsRequest(), timeout=self._timeout_s
            )
        )
        return [Application.of(each) for each in response.applications]

    async def models(self) -> list[Model]:
        """Return every model with its versions, by name."""
        response = await self._call(
            self._management.ListModels(management_pb2.ListModelsRequest(), timeout=self._timeout_s)
        )
        return [Model.of(each) for each in response.models]

    async def describe_model(self, name: str) -> Model:
        """Return a model with its versions.

        Raises:
            ModelNotFound: there is none of this name.
        """
        request = management_pb2.DescribeModelRequest(name=name)
        response = await self._call(
            self._management.DescribeModel(request, timeout=self._timeout_s)
        )
        return Model.of(response.model)

    async def describe_version(self, model: str, version: str | int | None = None) -> Version:
        """Return a version with its replicas; the current one if `version` is None.

        Raises:
            ModelNotFound: it is not registered.
        """
        request = management_pb2.DescribeVersionRequest(
            model=model, version="" if version is None else str(version)
        )
        response = await self._call(
            self._management.DescribeVersion(request, timeout=self._timeout_s)
        )
        return Version.of(response.version)

    async def promote(self, model: str, version: str | int) -> str:
        """Make a version the current one and return the version that was ("" for none).

        Raises:
            ModelNotFound: it is not registered.
            NoReadyReplica: none of its replicas could answer.
        """
        request = management_pb2.PromoteRequest(model=model, version=str(version))
        response = await self._call(self._management.Promote(request, timeout=self._timeout_s))
        return response.previous_version

    async def rollback(self, model: str) -> str:
        """Make the version before the current one current again and return it.

        Raises:
            ModelNotFound: there is no model of this name.
            FailedPrecondition: no version was current before.
            NoReadyReplica: none of its replicas could answer.
        """
        request = management_pb2.RollbackRequest(model=model)
        response = await self._call(self._management.Rollback(request, timeout=self._timeout_s))
        return response.version

    async def tune(
        self, model: str, options: ServingOptions, *, version: str | int | None = None
    ) -> ServingOptions:
        """Set how a deployed version is served and return what holds now.

        It takes effect at once; no replica is restarted.

        Args:
            model: Name of the model.
            options: Batches, queue and cache; replaces all that was set before.
            version: Version; the current one if None.

        Raises:
            InvalidInput: names the option that is not possible.
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
        """
        options.check()
        request = management_pb2.SetServingOptionsRequest(
            model=model,
            version="" if version is None else str(version),
            serving=serving_to_proto(options),
        )
        response = await self._call(
            self._management.SetServingOptions(request, timeout=self._timeout_s)
        )
        return serving_from_proto(response.serving, options.max_batch_size)

    async def scale(
        self,
        model: str,
        num_replicas: int,
        *,
        version: str | int | None = None,
        wait: bool = True,
        timeout_s: float = 120.0,
    ) -> Version:
        """Set the number of replicas of a deployed version, which follows its load no more.

        Args:
            model: Name of the model.
            num_replicas: Replicas wanted; 0 is allowed.
            version: Version; the current one if None.
            wait: True to return once that many are ready and no others are left.
            timeout_s: Longest wait for that.

        Raises:
            InvalidInput: a number of replicas that is out of range.
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
            DeadlineExceeded: not all replicas were ready in time; they are still wanted.
        """
        request = scale_request(model, version, num_replicas)
        response = await self._call(self._management.Scale(request, timeout=self._timeout_s))
        end = MONOTONIC() + timeout_s
        while True:
            found = await self.describe_version(model, response.version)
            if not wait or found.num_ready == len(found.replicas) == num_replicas:
                return found
            if MONOTONIC() > end:
                raise DeadlineExceeded(
                    f"{found.num_ready} of {num_replicas} replicas of '{model}:{found.version}' "
                    f"are ready after {timeout_s:g} s"
                )
            await asyncio.sleep(_SCALE_CHECK_S)

    async def autoscale(
        self,
        model: str,
        *,
        min_replicas: int = 1,
        max_replicas: int,
        version: str | int | None = None,
    ) -> Version:
        """Have the number of replicas of a deployed version follow its load, until `scale`.

        Args:
            model: Name of the model.
            min_replicas: Fewest replicas, at least 1.
            max_replicas: Most replicas.
            version: Version; the current one if None.

        Raises:
            InvalidInput: numbers of replicas that are out of range.
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
        """
        request = autoscaling_request(model, version, min_replicas, max_replicas)
        answer = self._management.SetAutoscaling(request, timeout=self._timeout_s)
        response = await self._call(answer)
        return await self.describe_version(model, response.version)

    async def undeploy(
        self, model: str, version: str | int | None = None, *, force: bool = False
    ) -> str:
        """Stop the replicas of a version, which stays registered, and return its name.

        Args:
            model: Name of the model.
            version: Version; the current one if None.
            force: True to do it although an application is routed to it.

        Raises:
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
            ModelInUse: an application is routed to it.
        """
        request = management_pb2.UndeployRequest(
            model=model, version="" if version is None else str(version), force=force
        )
        response = await self._call(self._management.Undeploy(request, timeout=self._timeout_s))
        return response.version

    async def unregister_model(self, model: str, version: str | int | None = None) -> None:
        """Remove a version that is not deployed, or the whole model if `version` is None.

        Raises:
            ModelNotFound: it is not registered.
            ModelInUse: it is deployed, or an application is routed to it.
        """
        if version is None:
            everything = management_pb2.UnregisterModelRequest(name=model)
            await self._call(self._management.UnregisterModel(everything, timeout=self._timeout_s))
        else:
            one = management_pb2.UnregisterVersionRequest(model=model, version=str(version))
            await self._call(self._management.UnregisterVersion(one, timeout=self._timeout_s))

    async def logs(
        self,
        model: str,
        version: str | int | None = None,
        *,
        replica: int | None = None,
        tail_lines: int = 100,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """Yield lines of the logs of a version's replicas.

        Args:
            model: Name of the model.
            version: Version; the current one if None.
            replica: Index of a replica; all if None.
            tail_lines: Last lines to yield of what is there, for each replica.
            follow: True to go on with what is added, until the replica ends.

        Raises:
            ModelNotFound: the version is not registered.
            ReplicaNotFound: it has no such replica.
        """
        request = management_pb2.StreamLogsRequest(
            model=model,
            version="" if version is None else str(version),
            replica=replica,
            tail_lines=tail_lines,
            follow=follow,
        )
        async for response in stream(self._management.StreamLogs(request), self._told):
            yield LogLine(response.replica_id, response.line)

    async def status(self) -> ClusterStatus:
        """Return the state of everything.

        Raises:
            Unavailable: the cluster is not reached.
        """
        response = await self._call(
            self._management.GetClusterStatus(
                management_pb2.GetClusterStatusRequest(), timeout=self._timeout_s
            )
        )
        return ClusterStatus.of(response)

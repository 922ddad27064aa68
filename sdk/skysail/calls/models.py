"""Calls about models and their versions, as registered."""

from collections.abc import AsyncIterator

from skysail.calls.management import ManagementCalls
from skysail.descriptions import LogLine, Model, Version
from skysail_common.rpc.messages import serving_from_proto, serving_to_proto
from skysail_common.rpc.statuses import stream
from skysail_common.serving_options import ServingOptions
from skysail_protos.v1 import management_pb2


class ModelCalls(ManagementCalls):
    """What operators ask about models."""

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

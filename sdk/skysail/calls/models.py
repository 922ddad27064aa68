"""Calls about models and their versions, as registered."""

from collections.abc import AsyncIterator, Sequence

from skysail.arguments import checked
from skysail.calls.deployment_requests import tune_request
from skysail.calls.management_channel import ManagementChannel
from skysail.calls.retries import LostConnection, RetryPolicy
from skysail.descriptions import LogLine, Model, Version
from skysail.sentinels import NOT_GIVEN
from skysail_common.rpc.messages import serving_from_proto
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_protos.v1 import management_pb2


@checked
class ModelCalls(ManagementChannel):
    """What operators ask about models."""

    async def models(self) -> list[Model]:
        """Return every model with its versions, by name."""
        response = await self._call(
            lambda stub: stub.ListModels(
                management_pb2.ListModelsRequest(), timeout=self._timeout_s
            )
        )
        return [Model.of(each) for each in response.models]

    async def describe_model(self, name: str) -> Model:
        """Return a model with its versions.

        Raises:
            ModelNotFound: there is none of this name.
        """
        request = management_pb2.DescribeModelRequest(name=name)
        response = await self._call(
            lambda stub: stub.DescribeModel(request, timeout=self._timeout_s)
        )
        return Model.of(response.model)

    async def describe_version(self, model: str, version: str | int | None = None) -> Version:
        """Return a version with its replicas; the current one if `version` is None.

        Raises:
            ModelNotFound: it is not registered.
        """
        return await self._describe(model, "" if version is None else str(version), RetryPolicy())

    async def _describe(self, model: str, version: str, retries: RetryPolicy) -> Version:
        request = management_pb2.DescribeVersionRequest(model=model, version=version)
        response = await self._call(
            lambda stub: stub.DescribeVersion(request, timeout=self._timeout_s), retries=retries
        )
        return Version.of(response.version)

    async def promote(self, model: str, version: str | int) -> str:
        """Make a version the current one and return the version that was ("" for none).

        Raises:
            ModelNotFound: it is not registered.
            NoReadyReplica: none of its replicas could answer.
        """
        request = management_pb2.PromoteRequest(model=model, version=str(version))
        response = await self._call(lambda stub: stub.Promote(request, timeout=self._timeout_s))
        return response.previous_version

    async def rollback(self, model: str) -> str:
        """Make the newest earlier version that has a ready replica current again and return it.

        Raises:
            ModelNotFound: there is no model of this name.
            FailedPrecondition: no version was current before.
            NoReadyReplica: no replica of an earlier version could answer.
        """
        request = management_pb2.RollbackRequest(model=model)
        response = await self._call(
            lambda stub: stub.Rollback(request, timeout=self._timeout_s), is_repeatable=False
        )
        return response.version

    async def tune(
        self,
        model: str,
        *,
        version: str | int | None = None,
        max_batch_size: int | None = NOT_GIVEN,
        policy: PolicyName | None = NOT_GIVEN,
        max_queue_delay_s: float | None = NOT_GIVEN,
        preferred_batch_sizes: Sequence[int] | None = NOT_GIVEN,
        max_queue_size: int | None = NOT_GIVEN,
        priority_step_s: float | None = NOT_GIVEN,
        cache_ttl_s: float | None = NOT_GIVEN,
    ) -> ServingOptions:
        """Change how a deployed version is served and return what holds now.

        An option that is not given stays as it is; None returns it to its default. It takes effect
        at once, and no replica is restarted.

        Args:
            model: Name of the model.
            version: Version; the current one if None.
            max_batch_size: Most rows of a batch.
            policy: Rule that forms batches.
            max_queue_delay_s: Longest wait for more queries while a replica is free.
            preferred_batch_sizes: Sizes in rows that are sent at once, in ascending order.
            max_queue_size: Rows that may wait.
            priority_step_s: Head start of a priority over the next.
            cache_ttl_s: Longest age of a cached prediction; 0 for none.

        Raises:
            InvalidInput: names the option that is not possible.
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
        """
        request = tune_request(
            model,
            version,
            max_batch_size=max_batch_size,
            policy=policy,
            max_queue_delay_s=max_queue_delay_s,
            preferred_batch_sizes=preferred_batch_sizes,
            max_queue_size=max_queue_size,
            priority_step_s=priority_step_s,
            cache_ttl_s=cache_ttl_s,
        )
        response = await self._call(
            lambda stub: stub.SetServingOptions(request, timeout=self._timeout_s)
        )
        return serving_from_proto(response.serving, ServingOptions().max_batch_size)

    async def unregister_model(self, model: str, version: str | int | None = None) -> None:
        """Remove a version that is not deployed, or the whole model if `version` is None.

        Raises:
            ModelNotFound: it is not registered.
            ModelInUse: it is deployed or the current one, or an application is routed to it.
        """
        if version is None:
            everything = management_pb2.UnregisterModelRequest(name=model)
            await self._call(
                lambda stub: stub.UnregisterModel(everything, timeout=self._timeout_s),
                is_repeatable=False,
            )
        else:
            one = management_pb2.UnregisterVersionRequest(model=model, version=str(version))
            await self._call(
                lambda stub: stub.UnregisterVersion(one, timeout=self._timeout_s),
                is_repeatable=False,
            )

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
        try:
            async for response in self._stream(lambda stub: stub.StreamLogs(request)):
                yield LogLine(response.replica_id, response.line)
        except LostConnection as lost:
            raise lost.error from None

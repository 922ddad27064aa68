"""Calls about registered models and their versions."""

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
    """Calls about models and versions."""

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
            ModelNotFound: no model has this name.
        """
        request = management_pb2.DescribeModelRequest(name=name)
        response = await self._call(
            lambda stub: stub.DescribeModel(request, timeout=self._timeout_s)
        )
        return Model.of(response.model)

    async def describe_version(self, model: str, version: str | int | None = None) -> Version:
        """Return a version with its replicas; the current one if `version` is None.

        Raises:
            ModelNotFound: the version is not registered.
        """
        return await self._describe(model, "" if version is None else str(version), RetryPolicy())

    async def _describe(self, model: str, version: str, retries: RetryPolicy) -> Version:
        request = management_pb2.DescribeVersionRequest(model=model, version=version)
        response = await self._call(
            lambda stub: stub.DescribeVersion(request, timeout=self._timeout_s), retries=retries
        )
        return Version.of(response.version)

    async def promote(self, model: str, version: str | int) -> str:
        """Make a version current and return the previous one ("" if there was none).

        Raises:
            ModelNotFound: the version is not registered.
            NoReadyReplica: the version has no ready replica.
        """
        request = management_pb2.PromoteRequest(model=model, version=str(version))
        response = await self._call(lambda stub: stub.Promote(request, timeout=self._timeout_s))
        return response.previous_version

    async def rollback(self, model: str) -> str:
        """Make the newest earlier version with a ready replica current again and return it.

        Raises:
            ModelNotFound: no model has this name.
            FailedPrecondition: no version was current before.
            NoReadyReplica: no earlier version has a ready replica.
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
        """Change the serving options of a deployed version and return all of them.

        An absent argument leaves its option unchanged; None resets the option to its default. Changes
        take effect at once, without a restart of replicas.

        Args:
            model: Name of the model.
            version: Version; the current one if None.
            max_batch_size: Most rows of a batch.
            policy: Policy that forms batches.
            max_queue_delay_s: Longest wait for more queries while a replica is free.
            preferred_batch_sizes: Sizes in rows at which a batch is sent without a wait, ascending.
            max_queue_size: Most rows in the queue.
            priority_step_s: Head start of a priority over the next one, in seconds.
            cache_ttl_s: Longest age of a cached prediction; 0 for none.

        Raises:
            InvalidInput: an option is out of range; the message names it.
            ModelNotFound: the version is not registered.
            FailedPrecondition: the version is not deployed.
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
            ModelNotFound: the version or model is not registered.
            ModelInUse: a version is deployed or current, or an application is routed to it.
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
            tail_lines: Number of last lines of each log to begin with.
            follow: True to continue with new lines until the replica ends.

        Raises:
            ModelNotFound: the version is not registered.
            ReplicaNotFound: the version has no replica with this index.
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

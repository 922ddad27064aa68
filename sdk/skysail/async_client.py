"""The client for asyncio; `client.Client` is its blocking twin."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from skysail.arguments import check_argument, checked
from skysail.calls.applications import ApplicationCalls
from skysail.calls.deployments import DeploymentCalls
from skysail.descriptions import ClusterStatus
from skysail.forks import FORKS, settle
from skysail.predictions import Prediction, describe_shapes, prediction_from_proto
from skysail.query_inputs import read_inputs, split_rows
from skysail.query_stream import QueryStream
from skysail.settings import ClientSettings
from skysail.tls import client_tls
from skysail_common.errors import InvalidInput, ModelFailed, Unavailable
from skysail_common.query_params import params_to_json
from skysail_common.rpc.management_access import ManagementAccess
from skysail_protos.v1 import management_pb2, query_pb2

_MAX_CONCURRENT = 256
_CLOSE_TURNS = 20
_FORK_GRACE_S = 1.0
"""Longest time that a fork waits for calls to management in flight."""


@checked
class AsyncClient(ApplicationCalls, DeploymentCalls):
    """Deploys models to a cluster and queries them.

    A call raises the error class that the server raised (`skysail.errors`).
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        query_endpoint: str | None = None,
        token: str | None = None,
        management_tls_ca_file: str | Path | None = None,
        tls_ca_file: str | Path | None = None,
        tls_certificate_file: str | Path | None = None,
        tls_key_file: str | Path | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """Read the addresses and TLS files; the first call connects.

        Args:
            endpoint: Endpoint of management, as host:port. If None, `SKYSAIL_ENDPOINT`, or else the
                local cluster that `skysail up` runs.
            query_endpoint: Endpoint of the gRPC services of a frontend. If None,
                `SKYSAIL_QUERY_ENDPOINT`; without that, management names one.
            token: Token for management. If None, `SKYSAIL_TOKEN`; without that, the client sends
                none.
            management_tls_ca_file: Authorities that sign the certificate of management, in PEM; the
                client calls management over TLS. If None, `SKYSAIL_MANAGEMENT_TLS_CA_FILE`;
                without that, calls are in the clear.
            tls_ca_file: Authorities that sign the certificates of frontends, in PEM; queries go over
                TLS. If None, `SKYSAIL_TLS_CA_FILE`; without that, queries are in the clear.
            tls_certificate_file: Certificate of the client for frontends that require one (mutual
                TLS). If None, `SKYSAIL_TLS_CERTIFICATE_FILE`.
            tls_key_file: Key of that certificate. If None, `SKYSAIL_TLS_KEY_FILE`.
            timeout_s: Longest wait for an answer, unless a call has its own limit.

        Raises:
            FailedPrecondition: a file for TLS is missing or unusable.
        """
        settings = ClientSettings()
        authority = management_tls_ca_file or settings.management_tls_ca_file
        access = ManagementAccess(
            token or settings.token.get_secret_value(), Path(authority) if authority else None
        )
        found = endpoint or settings.find_endpoint()
        # An environment variable may have named it, and must have the same form.
        check_argument("endpoint", found)
        super().__init__(found, timeout_s, access)
        self._is_noted = not endpoint and not settings.endpoint
        self._query_endpoint = query_endpoint or settings.query_endpoint
        if self._query_endpoint:
            check_argument("query_endpoint", self._query_endpoint)
        self._tls = client_tls(
            tls_ca_file or settings.tls_ca_file,
            tls_certificate_file or settings.tls_certificate_file,
            tls_key_file or settings.tls_key_file,
            settings.tls_server_name or ("" if query_endpoint else settings.noted("server_name")),
        )
        self._queries = QueryStream(self._find_frontends, self._tls)
        FORKS.install()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of the cluster at {self.endpoint}>"

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
        await self._close_management()
        await settle(_CLOSE_TURNS)

    async def _suspend(self) -> None:
        """Close the connections for a fork; operations in flight continue after `_resume`."""
        await self._queries.suspend()
        await self._close_management(_FORK_GRACE_S)
        await settle()

    def _resume(self) -> None:
        """Connect again if operations are in flight."""
        self._queries.resume()

    def _twin(self) -> Self:
        """Return a client of the same cluster that shares no connection with this one."""
        twin = copy(self)
        twin._forget_management()
        twin._queries = QueryStream(twin._find_frontends, twin._tls)
        return twin

    async def _find_frontends(self) -> list[str]:
        return [self._query_endpoint] if self._query_endpoint else await self._frontends("grpc")

    async def _frontends(self, door: str) -> list[str]:
        # Frontends on Kubernetes advertise endpoints that may be unreachable from this machine.
        if self._is_noted and (noted := ClientSettings().noted(door)):
            return [noted]
        frontends = (await self.status()).frontends
        if not frontends:
            raise Unavailable(f"no frontend is connected to management at {self.endpoint}")
        endpoints = [getattr(each, f"{door}_endpoint") for each in frontends]
        return random.sample(endpoints, len(endpoints))

    async def get_query_addr(self) -> str:
        """Return the host:port of a frontend's HTTP service.

        Raises:
            Unavailable: management does not answer, or no frontend is connected to it.
        """
        return (await self._frontends("http"))[0]

    async def predict(
        self,
        target: str,
        input: Any,  # noqa: A002 - Clipper's own word, which users know.
        *,
        version: str | int | None = None,
        params: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Return the prediction for one input.

        Args:
            target: Name of an application, or of a model if no application has this name.
            input: A number, text, bytes, list or array, without a batch axis; or a dictionary of
                them by name, such as a row of a data frame, or the row as a series of pandas. Or many
                rows: a data frame, or a list of such dictionaries. Numbers are converted to the
                datatype of the model.
            version: Version that must answer; if None, the routes decide.
            params: Parameters for a function that takes them (`def predict(x, *, params)`): JSON
                values by name, at most 64 KiB.
            timeout_s: Longest wait in seconds; the SLO of an application may be shorter.

        Raises:
            NotFound: the application, model or version does not exist.
            InvalidInput: the input does not fit the signature of the model, or its function takes
                no parameters.
            DeadlineExceeded, NoReadyReplica, Overloaded, ModelFailed: there is no prediction,
                and the application has no default output.
            Unavailable: the cluster is unreachable.
        """
        try:
            return await self._predict(target, input, version, params, timeout_s)
        except InvalidInput as error:
            error.args = (
                describe_shapes(error.message, "predict takes one input", "predict_batch"),
            )
            raise

    async def _predict(
        self,
        target: str,
        value: Any,
        version: str | int | None,
        params: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> Prediction:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        inputs = read_inputs(value)
        request = query_pb2.PredictRequest(
            target=target,
            version="" if version is None else str(version),
            inputs=inputs.tensors,
            columns=inputs.columns,
            params_json=params_to_json(params or {}),
        )
        return prediction_from_proto(await self._queries.ask(request, timeout_s), inputs)

    async def predict_batch(
        self,
        target: str,
        inputs: Sequence[Any],
        *,
        version: str | int | None = None,
        params: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> list[Prediction]:
        """Return the predictions for many inputs, in order.

        Each input is a separate query with its own deadline; Skysail forms the batches.

        Args:
            target: As for `predict`.
            inputs: A list or an array with one input per element, or a data frame with one per row.
            version: As for `predict`.
            params: As for `predict`, for every input.
            timeout_s: Longest wait for each prediction, in seconds.

        Raises:
            SkysailError: see `predict`, for the first input without a prediction. If the input is
                at fault, the message begins with its index.
        """
        room = asyncio.Semaphore(_MAX_CONCURRENT)

        async def ask(index: int, value: Any) -> Prediction:
            async with room:
                try:
                    return await self._predict(target, value, version, params, timeout_s)
                except (InvalidInput, ModelFailed) as error:
                    text = describe_shapes(error.message, "predict_batch takes inputs")
                    error.args = (f"input {index}: {text}",)
                    raise

        tasks = [asyncio.ensure_future(ask(*each)) for each in enumerate(split_rows(inputs))]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def status(self) -> ClusterStatus:
        """Return the state of the cluster, its applications, models and frontends.

        Raises:
            Unavailable: the cluster is unreachable.
        """
        response = await self._call(
            lambda stub: stub.GetClusterStatus(
                management_pb2.GetClusterStatusRequest(), timeout=self._timeout_s
            )
        )
        return ClusterStatus.of(response)

    async def restore_store(self) -> int:
        """Write the records of management into a store that lost them.

        Returns:
            The number of records in the store.

        Raises:
            StoreTaken: another management owns the store.
            StoreLost: the store holds the data of another cluster.
            FailedPrecondition: the store lost no records.
            Unavailable: the cluster or its store is unreachable.
        """
        response = await self._call(
            lambda stub: stub.RestoreStore(
                management_pb2.RestoreStoreRequest(), timeout=self._timeout_s
            ),
            is_repeatable=False,
        )
        return response.num_records

"""Queries of programs without asyncio."""

from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Self

from skysail.arguments import checked
from skysail.async_client import AsyncClient
from skysail.bridge import Bridge
from skysail.predictions import Prediction

T = TypeVar("T")

_SLACK_S = 5.0
"""Time after the timeout of a call at which the thread of the client counts as stuck."""


@checked
class SyncQueries:
    """The connections of a client without asyncio, and its queries."""

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
        """Read the addresses and TLS files; see `AsyncClient`."""
        client = AsyncClient(
            endpoint,
            query_endpoint=query_endpoint,
            token=token,
            management_tls_ca_file=management_tls_ca_file,
            tls_ca_file=tls_ca_file,
            tls_certificate_file=tls_certificate_file,
            tls_key_file=tls_key_file,
            timeout_s=timeout_s,
        )
        self.endpoint = client.endpoint
        self._bridge = Bridge(client)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of the cluster at {self.endpoint}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._bridge.close()

    @property
    def _async(self) -> AsyncClient:
        return self._bridge.client

    def _run(self, work: Coroutine[Any, Any, T], limit_s: float | None = None) -> T:
        # Long operations have only their own limits.
        return self._bridge.run(work, limit_s and limit_s + _SLACK_S)

    def get_query_addr(self) -> str:
        """Return the HTTP endpoint of a frontend; see `AsyncClient.get_query_addr`."""
        return self._run(self._async.get_query_addr())

    def predict(
        self,
        target: str,
        input: Any,  # noqa: A002 - Clipper's own word, which users know.
        *,
        version: str | int | None = None,
        params: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Return the prediction for one input; see `AsyncClient.predict`."""
        limit_s = self._async.timeout_s if timeout_s is None else timeout_s
        work = self._async.predict(
            target, input, version=version, params=params, timeout_s=timeout_s
        )
        return self._run(work, limit_s)

    def predict_batch(
        self,
        target: str,
        inputs: Sequence[Any],
        *,
        version: str | int | None = None,
        params: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> list[Prediction]:
        """Return the predictions for many inputs; see `AsyncClient.predict_batch`."""
        return self._run(
            self._async.predict_batch(
                target, inputs, version=version, params=params, timeout_s=timeout_s
            )
        )

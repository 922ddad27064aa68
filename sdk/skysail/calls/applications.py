"""Calls about applications and their routes."""

from collections.abc import Sequence
from typing import Any

from skysail.arguments import checked
from skysail.calls.application_requests import (
    DEFAULT_SLO_MS,
    register_request,
    routes_request,
    update_request,
)
from skysail.calls.management_channel import ManagementChannel
from skysail.descriptions import Application, Route
from skysail.sentinels import NOT_GIVEN
from skysail_protos.v1 import management_pb2


@checked
class ApplicationCalls(ManagementChannel):
    """Calls about applications and routes."""

    async def register_application(
        self,
        name: str,
        input_type: str = "tensors",
        default_output: Any = NOT_GIVEN,
        slo_ms: float = DEFAULT_SLO_MS,
    ) -> Application:
        """Register an application; a repeated call with the same values is idempotent.

        Args:
            name: Name of the application.
            input_type: `tensors` (anything), `integers`, `floats`, `doubles`, `bytes` or
                `strings`.
            default_output: Answer if no prediction is in time, as a JSON value. Without it, a late
                query ends with an error.
            slo_ms: Promised latency in milliseconds.

        Raises:
            AlreadyExists: an application of this name has other values.
            InvalidInput: the name, type, SLO or default output is illegal.
        """
        request = register_request(name, input_type, default_output, slo_ms)
        response = await self._call(
            lambda stub: stub.RegisterApplication(request, timeout=self._timeout_s)
        )
        return Application.of(response.application)

    async def update_application(
        self,
        name: str,
        *,
        slo_ms: float | None = None,
        default_output: Any = NOT_GIVEN,
        removes_default: bool = False,
        uses_cache: bool | None = None,
    ) -> Application:
        """Change an application; an absent argument leaves its value unchanged.

        Args:
            name: Name of the application.
            slo_ms: Promised latency in milliseconds.
            default_output: Answer if no prediction is in time, as a JSON value.
            removes_default: True to remove the default output.
            uses_cache: False to compute each query instead of reading the prediction cache.

        Raises:
            ApplicationNotFound: no application has this name.
            InvalidInput: the SLO or default output is illegal.
        """
        request = update_request(name, slo_ms, default_output, removes_default, uses_cache)
        response = await self._call(
            lambda stub: stub.UpdateApplication(request, timeout=self._timeout_s)
        )
        return Application.of(response.application)

    async def unregister_application(self, name: str) -> None:
        """Remove an application.

        Raises:
            ApplicationNotFound: no application has this name.
        """
        request = management_pb2.UnregisterApplicationRequest(name=name)
        await self._call(
            lambda stub: stub.UnregisterApplication(request, timeout=self._timeout_s),
            is_repeatable=False,
        )

    async def link(
        self, application: str, model: str, version: str | int | None = None
    ) -> Application:
        """Route all queries of an application to a model.

        Args:
            application: Name of the application.
            model: Name of the model.
            version: Version that answers; if None, the one that is current at each query.

        Raises:
            ApplicationNotFound, ModelNotFound: the application or the model is not registered.
            InputTypeMismatch: the model and the application have different input types.
        """
        return await self.set_routes(
            application, [Route(model, "" if version is None else str(version))]
        )

    async def unlink(self, application: str) -> Application:
        """Route an application to nothing.

        Raises:
            ApplicationNotFound: no application has this name.
        """
        return await self.set_routes(application, [])

    async def set_routes(self, application: str, routes: Sequence[Route]) -> Application:
        """Replace the routes of an application, which share its queries by their weights.

        Raises:
            ApplicationNotFound, ModelNotFound: the application or a model is not registered.
            InputTypeMismatch: a model and the application have different input types.
        """
        request = routes_request(application, routes)
        response = await self._call(lambda stub: stub.SetRoutes(request, timeout=self._timeout_s))
        return Application.of(response.application)

    async def applications(self) -> list[Application]:
        """Return every application, by name."""
        response = await self._call(
            lambda stub: stub.ListApplications(
                management_pb2.ListApplicationsRequest(), timeout=self._timeout_s
            )
        )
        return [Application.of(each) for each in response.applications]

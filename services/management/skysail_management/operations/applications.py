"""Applications and their routes."""

import math
from collections.abc import Sequence

from skysail_common.errors import ApplicationNotFound, InvalidInput
from skysail_common.tensors import InputType
from skysail_management.catalog.applications import (
    ApplicationSpec,
    check_default_output,
    check_same_values,
)
from skysail_management.reconciler.reconciler import Reconciler
from skysail_management.records import ApplicationRecord, Records, RouteRecord


class Applications:
    """Registers, changes and routes applications."""

    def __init__(self, records: Records, reconciler: Reconciler) -> None:
        self._records = records
        self._reconciler = reconciler

    def get(self, name: str) -> ApplicationRecord:
        """Return an application.

        Raises:
            ApplicationNotFound: no application has this name.
        """
        record = self._records.applications.get(name)
        if record is None:
            raise ApplicationNotFound(f"application {name!r} is not registered")
        return record

    def all(self) -> Sequence[ApplicationRecord]:
        """Return every application, by name."""
        return self._records.applications.all()

    async def register(
        self,
        name: str,
        input_type: InputType,
        slo_s: float,
        default_output_json: str | None,
        *,
        bypasses_cache: bool = False,
    ) -> ApplicationRecord:
        """Register an application; a repeated call changes nothing.

        Raises:
            InvalidInput: an illegal name, or a default output that is not JSON.
            AlreadyExists: an application of this name has other values.
        """
        spec = ApplicationSpec(name, slo_s, default_output_json, bypasses_cache)
        record = spec.to_record(input_type)
        async with self._records.lock:
            existing = self._records.applications.get(name)
            if existing is not None:
                check_same_values(existing, record)
                return existing
            await self._records.commit([self._records.applications.put(name, record)])
        await self._reconciler.publish_routing()
        return record

    async def update(
        self,
        name: str,
        slo_s: float | None,
        default_output_json: str | None,
        bypasses_cache: bool | None = None,
        *,
        removes_default_output: bool = False,
    ) -> ApplicationRecord:
        """Change the values that are not None, and remove the default output on request.

        Raises:
            ApplicationNotFound: no application has this name.
            InvalidInput: the default output is not JSON, or is both given and removed.
        """
        if removes_default_output and default_output_json is not None:
            raise InvalidInput("cannot set and remove the default output at once")
        async with self._records.lock:
            record = self.get(name)
            changes: dict[str, object] = {}
            if slo_s is not None:
                changes["slo_s"] = slo_s
            if default_output_json is not None or removes_default_output:
                changes["default_output_json"] = check_default_output(default_output_json)
            if bypasses_cache is not None:
                changes["bypasses_cache"] = bypasses_cache
            record = record.model_copy(update=changes)
            await self._records.commit([self._records.applications.put(name, record)])
        await self._reconciler.publish_routing()
        return record

    async def unregister(self, name: str) -> None:
        """Remove an application with its routes.

        Raises:
            ApplicationNotFound: no application has this name.
        """
        async with self._records.lock:
            self.get(name)
            await self._records.commit([self._records.applications.delete(name)])
        await self._reconciler.publish_routing()

    async def set_routes(self, name: str, routes: Sequence[RouteRecord]) -> ApplicationRecord:
        """Replace the routes of an application.

        Raises:
            ApplicationNotFound: no application has this name.
            ModelNotFound: a model, or the version that a route names, is not registered.
            InputTypeMismatch: a model has another input type than the application.
            InvalidInput: a weight is not a number above 0, or two routes lead to the same version.
        """
        async with self._records.lock:
            application = self.get(name)
            if len({(route.model, route.version) for route in routes}) < len(routes):
                raise InvalidInput(f"two routes of application {name!r} lead to the same version")
            for route in routes:
                if not (route.weight > 0 and math.isfinite(route.weight)):
                    raise InvalidInput(
                        f"the route to {route.model!r} has weight {route.weight:g}; it must be a "
                        "number greater than 0"
                    )
            application = application.model_copy(update={"routes": tuple(routes)})
            await self._records.commit([self._records.applications.put(name, application)])
        await self._reconciler.publish_routing()
        return application

"""The route table: immutable, and replaced as a whole."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NoReturn

from skysail_common.errors import ApplicationNotFound, ModelNotFound, Unavailable, shown
from skysail_common.identifiers import ModelVersion
from skysail_common.serving_options import ServingOptions
from skysail_common.tensors import InputType, Signature


@dataclass(frozen=True)
class Route:
    """An edge from an application to a model; an empty version means the current one."""

    model_name: str
    version: str
    weight: float


@dataclass(frozen=True)
class Application:
    """An application, which clients address by name."""

    name: str
    input_type: InputType
    slo_s: float
    routes: tuple[Route, ...] = ()
    has_default: bool = False
    uses_cache: bool = True
    """False if each query must be computed even if its model enables caching."""
    default_output: Any = None
    """The answer if no prediction is in time: a JSON value."""
    cumulative_weights: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        weights = tuple(accumulate(route.weight for route in self.routes))
        object.__setattr__(self, "cumulative_weights", weights)

    def choose_route(self) -> Route:
        """Return a route at random by weight; there must be at least one."""
        if len(self.routes) == 1:
            return self.routes[0]
        return random.choices(self.routes, cum_weights=self.cumulative_weights)[0]


@dataclass(frozen=True)
class ReplicaEndpoint:
    """A replica and its endpoint."""

    container_id: str
    endpoint: str


@dataclass(frozen=True)
class ServedVersion:
    """A deployed model version."""

    name: ModelVersion
    signature: Signature
    serving: ServingOptions = field(default_factory=ServingOptions)
    is_current: bool = False
    num_replicas: int = 0
    """Desired number of replicas; at 0 none will start."""
    replicas: tuple[ReplicaEndpoint, ...] = ()
    latencies: tuple[tuple[int, float], ...] = ()
    """Known latencies: rows and seconds of batches."""
    load_report_interval_s: float | None = None
    """Time between reports of the load; None to report none."""
    artifact_sha256: str = ""
    """SHA-256 of the artifact: tells the content from earlier content under the same name."""
    takes_params: bool = False
    """True if its function takes the parameters of queries."""
    identity: str = field(init=False, repr=False, compare=False)
    """Name and content, because latencies and predictions apply to one content only."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", f"{self.name}@{self.artifact_sha256}")


class RouteTable:
    """The applications and deployed versions at one instant."""

    def __init__(
        self, applications: Iterable[Application] = (), versions: Iterable[ServedVersion] = ()
    ) -> None:
        self.applications: Mapping[str, Application] = {each.name: each for each in applications}
        self.versions: Mapping[ModelVersion, ServedVersion] = {each.name: each for each in versions}
        self._current = {
            each.name.model_name: each for each in self.versions.values() if each.is_current
        }
        self._models: dict[str, list[ServedVersion]] = {}
        for each in self.versions.values():
            self._models.setdefault(each.name.model_name, []).append(each)

    def application(self, name: str) -> Application:
        """Return an application.

        Raises:
            ApplicationNotFound: no application has this name.
        """
        application = self.applications.get(name)
        if application is None:
            text = f"application {shown(name)!r} is not registered"
            if self.has_model(name):
                text += "; a model has this name: link an application to it, or "
                text += f"query /v2/models/{name}/infer"
            raise ApplicationNotFound(text)
        return application

    def has_model(self, model_name: str) -> bool:
        """Return whether any version of a model is deployed."""
        return model_name in self._models

    def versions_of(self, model_name: str) -> list[ServedVersion]:
        """Return the deployed versions of a model."""
        return self._models.get(model_name, [])

    def version(self, model_name: str, version: str) -> ServedVersion:
        """Return a version; the current one if `version` is empty.

        Raises:
            ModelNotFound: the version is not deployed, or no version is current. The texts begin
                like those of Triton, because tests of public clients compare them.
        """
        if version:
            found = self.versions.get(ModelVersion(model_name, version))
        else:
            found = self._current.get(model_name)
        if found is not None:
            return found
        if model_name not in self._models:
            raise ModelNotFound(f"Request for unknown model: '{shown(model_name)}' is not found")
        if version:
            raise ModelNotFound(
                f"Request for unknown model: '{model_name}' version {shown(version)} is not found"
            )
        raise ModelNotFound(
            f"Request for unknown model: '{model_name}' has no available versions: no version "
            "is current; name a version or promote one"
        )

    def routed_version(self, application: Application, version: str) -> ServedVersion | None:
        """Return the version that answers a query of an application, or None without a route.

        Args:
            application: Application that the caller addressed.
            version: Version that the caller names; empty to choose by the routes.

        Raises:
            ModelNotFound: the version that the caller names is not deployed.
        """
        if not application.routes:
            if version:
                raise ModelNotFound(
                    f"Requested version: {shown(version)} does not exist: application "
                    f"'{application.name}' is routed to no model"
                )
            return None
        if version:
            for route in application.routes:
                found = self.versions.get(ModelVersion(route.model_name, version))
                if found is not None:
                    return found
            # Text of Clipper; the tests of its users compare it.
            raise ModelNotFound(
                f"Requested version: {shown(version)} does not exist for model: "
                f"{application.routes[0].model_name}"
            )
        route = application.choose_route()
        if route.version:
            return self.versions.get(ModelVersion(route.model_name, route.version))
        return self._current.get(route.model_name)


class NoRoutes(RouteTable):
    """The table before the first routes arrive.

    Each lookup raises `Unavailable`, which clients retry, because the name may exist.
    """

    def application(self, name: str) -> NoReturn:
        """Raise `Unavailable`."""
        raise Unavailable(
            f"cannot route {name!r}: this frontend has no routes from management yet; retry"
        )

    def has_model(self, model_name: str) -> NoReturn:
        """Raise `Unavailable`."""
        self.application(model_name)

    def version(self, model_name: str, version: str) -> NoReturn:
        """Raise `Unavailable`."""
        self.application(model_name)

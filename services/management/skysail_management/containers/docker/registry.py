"""Brings images to the engine from a registry and back."""

from collections.abc import Callable, Iterable
from typing import Any

from skysail_common.docker.engine import DockerEngine, EngineRefused, NotOnEngine
from skysail_management.containers.base import PrepareFailed, Progress
from skysail_management.settings import ManagementSettings


class Registry:
    """Pulls and pushes images by names that say where their registry is."""

    def __init__(self, engine: DockerEngine, settings: ManagementSettings) -> None:
        """Logs in with the user of the settings; without one, as `docker login` has."""
        self._engine = engine
        user = settings.docker_registry_user
        password = settings.docker_registry_password.get_secret_value()
        self._login = {"username": user, "password": password} if user else None

    async def pull(self, image: str, progress: Progress) -> bool:
        """Have an image on the engine; False if the registry has none of that name.

        Raises:
            PrepareFailed: the registry does not answer, or refuses.
        """
        try:
            await self._transfer(lambda client: client.pull, image, progress)
        except NotOnEngine:
            return False
        except EngineRefused as error:
            raise PrepareFailed(f"{image} cannot be pulled: {error.message}") from error
        return True

    async def push(self, image: str, progress: Progress) -> None:
        """Have an image in its registry.

        Raises:
            PrepareFailed: the registry does not answer, or refuses.
        """
        try:
            await self._transfer(lambda client: client.push, image, progress)
        except EngineRefused as error:
            raise PrepareFailed(f"{image} cannot be pushed: {error.message}") from error

    async def _transfer(
        self,
        method: Callable[[Any], Callable[..., Iterable[dict[str, Any]]]],
        image: str,
        progress: Progress,
    ) -> None:
        async with self._engine.stream(
            lambda client: method(client)(image, stream=True, decode=True, auth_config=self._login)
        ) as events:
            async for event in events:
                if "error" in event:
                    raise EngineRefused(event["error"])
                # Without those that count the bytes of a layer.
                if "status" in event and not event.get("progressDetail"):
                    progress(" ".join([event.get("id", ""), event["status"]]).strip())

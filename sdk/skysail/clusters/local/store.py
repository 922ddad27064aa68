"""The embedded store of a local cluster, a child process."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from skysail_common.errors import SkysailError
from skysail_common.process.child_process import Child, StartFailed
from skysail_common.process.data_dir import open_log, socket_directory


class EmbeddedStore(Child):
    """The embedded server, which prints no ready line and is ready once it answers."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        log_file: Path,
        wait_until_ready: Callable[[], Any],
    ) -> None:
        super().__init__("store", lambda _: command, environment)
        self._log_file = log_file
        self._wait_until_ready = wait_until_ready

    async def start(self) -> None:
        """Start the server and return once it answers."""
        with open_log(self._log_file) as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(self.bound),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )
        ended = asyncio.ensure_future(self._process.wait())
        ready = asyncio.ensure_future(self._wait_until_ready())
        try:
            await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise StartFailed(f"cannot start the store: it ended at once; see {self._log_file}")
            ready.result()
        except SkysailError:
            await self._kill()
            raise
        finally:
            ready.cancel()
            ended.cancel()

    async def _drain_output(self) -> None:
        return


def store_socket(data_dir: Path) -> Path:
    """Return the socket of the embedded store of a data directory."""
    return socket_directory(data_dir) / "store.sock"


async def stop_stray_store(data_dir: Path) -> bool:
    """Stop the orphaned store of a killed cluster; False if none runs.

    The caller holds the lock of the data directory.
    """
    # The import is here because the base install lacks the client of the store.
    from skysail_common.store import embedded

    socket = store_socket(data_dir)
    had_store = socket.exists()
    await embedded.stop_stray(socket)
    return had_store

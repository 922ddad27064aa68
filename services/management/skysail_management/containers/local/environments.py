"""Virtual environments for replicas with requirements, one for each set of packages.

An environment also sees the packages of management's own environment (Skysail among them). Packages
that are installed into it take precedence. Requirements that management's own environment satisfies
need no other.
"""

import asyncio
import hashlib
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from skysail_common.process.installed_packages import are_installed
from skysail_common.process.threads import in_thread
from skysail_common.process.virtual_environments import install_command, make_environment
from skysail_common.sent_wheels import replace_wheels
from skysail_management.containers.base import PrepareFailed, Progress
from skysail_management.containers.local.processes import signal_session
from skysail_management.containers.requirements import (
    LOG_TAIL_LINES,
    install_error,
    normal_form,
    requirements_file,
)

_MAX_LINE_BYTES = 1024 * 1024
_MARKER = ".complete"
_REQUIREMENTS = "requirements.txt"
_TEMPORARY = "tmp"


class Environments:
    """The environments under one directory."""

    def __init__(
        self, directory: Path, base_environment: Mapping[str, str], blobs: Path = Path()
    ) -> None:
        """Keep environments in `directory`; uv or pip runs with `base_environment`.

        Wheels that travel in artifacts are in the directory `blobs`.
        """
        self._blobs = blobs
        self._directory = directory
        self._base_environment = dict(base_environment)
        self._locks: dict[str, asyncio.Lock] = {}

    def python(self, requirements: Sequence[str]) -> Path:
        """Return the interpreter for these requirements, which `prepare` creates."""
        return Path(sys.executable) if are_installed(requirements) else self._python(requirements)

    def _python(self, requirements: Sequence[str]) -> Path:
        return self._directory / environment_key(requirements) / "bin" / "python"

    async def prepare(self, requirements: Sequence[str], progress: Progress) -> None:
        """Build the environment for these requirements, unless it exists.

        Raises:
            PrepareFailed: the installation failed, or the environment cannot be created, with the
                reason.
        """
        if await in_thread(are_installed, requirements):
            return
        key = environment_key(requirements)
        async with self._locks.setdefault(key, asyncio.Lock()):
            directory = self._directory / key
            is_whole = (directory / _MARKER).exists() and self._python(requirements).exists()
            if is_whole:
                progress(f"environment {key} is ready")
                return
            await in_thread(shutil.rmtree, directory, ignore_errors=True)
            try:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                await in_thread(make_environment, directory)
                (directory / _TEMPORARY).mkdir()
                lines = await in_thread(self._with_wheels, requirements, directory / _TEMPORARY)
                text = requirements_file(lines)
                (directory / _REQUIREMENTS).write_text(text, encoding="utf-8")
                await self._install(directory, progress)
                await in_thread(shutil.rmtree, directory / _TEMPORARY, ignore_errors=True)
                (directory / _MARKER).touch()
            except (OSError, ValueError) as error:
                raise PrepareFailed(f"cannot create the environment: {error}") from error
            finally:
                if not (directory / _MARKER).exists():
                    await in_thread(shutil.rmtree, directory, ignore_errors=True)

    def _with_wheels(self, requirements: Sequence[str], directory: Path) -> Sequence[str]:
        """Put the wheels that travelled into a directory, and name them there."""

        def place(sha256: str, name: str) -> Path:
            path = directory.absolute() / sha256 / name
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(self._blobs / sha256, path)
            return path

        return replace_wheels(requirements, place)

    async def _install(self, directory: Path, progress: Progress) -> None:
        process = await asyncio.create_subprocess_exec(
            *install_command(directory, directory / _REQUIREMENTS),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A killed pip does not remove its temporary files.
            env={**self._base_environment, "TMPDIR": str((directory / _TEMPORARY).absolute())},
            # The session lets the cleanup kill the build processes of uv and pip.
            start_new_session=True,
            limit=_MAX_LINE_BYTES,
        )
        tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        assert process.stdout is not None
        try:
            async for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                tail.append(line)
                progress(line)
            status = await process.wait()
        finally:
            signal_session(process.pid, signal.SIGKILL)
            await process.wait()
        if status != 0:
            raise install_error(status, tail)

    async def sweep(self, needed: Callable[[], Collection[Sequence[str]]]) -> None:
        """Remove environments for requirements that no version needs."""
        if not self._directory.is_dir():
            return
        for directory in self._directory.iterdir():
            lock = self._locks.setdefault(directory.name, asyncio.Lock())
            if directory.name in _keys(needed()) or lock.locked():
                continue
            async with lock:
                # A version may need it by now; a version that comes later builds it again.
                if directory.name not in _keys(needed()):
                    await in_thread(shutil.rmtree, directory, ignore_errors=True)


def _keys(needed: Collection[Sequence[str]]) -> set[str]:
    return {environment_key(requirements) for requirements in needed if requirements}


def environment_key(requirements: Sequence[str]) -> str:
    """Return the name of the environment, equal for equal packages on the same Python."""
    text = "\n".join([sys.version, sys.prefix, normal_form(requirements)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""The files that an installation in a container gets from this machine.

Requirements and the variables of pip and uv may name files of this machine, such as a wheel, a directory
of wheels, or certificates. The context contains these files, and their paths are rewritten.
"""

import io
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from skysail_common.process.virtual_environments import INSTALLER
from skysail_common.sent_wheels import replace_wheels, wheel_path
from skysail_management.containers.docker.options import BUILD_DIRECTORY
from skysail_management.containers.requirements import PATH, requirements_file

_CHUNK_BYTES = 1024 * 1024
# Requirements of a client may read only packages of this machine.
_PACKAGES = (".whl", ".tar.gz", ".zip")


class BuildContext:
    """The files of one installation."""

    def __init__(
        self, requirements: Sequence[str], environment: Mapping[str, str], blobs: Path = Path()
    ) -> None:
        """Collect the files of these requirements and of these variables for pip and uv.

        Wheels that travel in artifacts are in the directory `blobs`.
        """
        self._files: dict[str, Path | bytes] = {}

        def place(sha256: str, name: str) -> Path:
            path = wheel_path(sha256, name)
            self._files[path] = blobs / sha256
            return Path(BUILD_DIRECTORY, path)

        requirements = replace_wheels(requirements, place)
        text = PATH.sub(
            lambda found: self._include(found[0], _PACKAGES), requirements_file(requirements)
        )
        variables = {
            name: PATH.sub(lambda found: self._include(found[0], ("",)), value)
            for name, value in environment.items()
        }
        variables |= {"HOME": BUILD_DIRECTORY, "TMPDIR": f"{BUILD_DIRECTORY}/tmp"}
        # Replicas cannot write bytecode into their image later.
        variables |= {"PIP_NO_CACHE_DIR": "1", "UV_COMPILE_BYTECODE": "1"}
        command = ["python", "-m", INSTALLER, f"{BUILD_DIRECTORY}/requirements.txt"]
        script = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()
        )
        script += f"mkdir $TMPDIR\nexec {shlex.join(command)} 2>&1\n"
        self._files["requirements.txt"] = text.encode()
        self._files["install"] = script.encode()

    def archive(self) -> Iterator[bytes]:
        """Yield the files as a tar archive."""
        return archive(self._files)

    def _include(self, path: str, suffixes: tuple[str, ...]) -> str:
        """Include a path, and return its path in the container; a path left out is unchanged."""
        here = Path(path)
        if here.is_dir():
            found = [each for each in here.iterdir() if each.name.endswith(_PACKAGES)]
        else:
            found = [here] if here.is_file() and path.endswith(suffixes) else []
        self._files |= {f"here{each}": each for each in found}
        return f"{BUILD_DIRECTORY}/here{path}" if found else path


def archive(files: Mapping[str, Path | bytes]) -> Iterator[bytes]:
    """Yield a tar archive of world-readable files, piece by piece."""
    for name, content in files.items():
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.mode = 0o444
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            entry.size = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield entry.tobuf(tarfile.PAX_FORMAT)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)

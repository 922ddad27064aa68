"""What an installation in a container gets to see of this machine: wheels and pip's settings.

Requirements and pip's variables may name files here, such as a wheel of one's own, a directory with
wheels, or certificates. These are brought along, and their names are changed to where they are there.
"""

import io
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from skysail_common.process.virtual_environments import INSTALL
from skysail_management.containers.docker.options import BUILD_DIRECTORY
from skysail_management.containers.requirements import PATH, requirements_file

_CHUNK_BYTES = 1024 * 1024
# Nothing else of this machine is read for the requirements of a client.
_PACKAGES = (".whl", ".tar.gz", ".zip")


class BuildContext:
    """The files of one installation."""

    def __init__(self, requirements: Sequence[str], environment: Mapping[str, str]) -> None:
        """Takes lines of a requirements file, and the variables that pip is to have."""
        self._files: dict[str, Path | bytes] = {}
        text = PATH.sub(
            lambda found: self._brought(found[0], _PACKAGES), requirements_file(requirements)
        )
        variables = {
            name: PATH.sub(lambda found: self._brought(found[0], ("",)), value)
            for name, value in environment.items()
        }
        variables |= {"HOME": BUILD_DIRECTORY, "TMPDIR": f"{BUILD_DIRECTORY}/tmp"}
        command = ["python", "-m", "pip", *INSTALL, f"{BUILD_DIRECTORY}/requirements.txt"]
        script = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()
        )
        script += f"mkdir $TMPDIR\nexec {shlex.join([*command, '--no-cache-dir'])} 2>&1\n"
        self._files["requirements.txt"] = text.encode()
        self._files["install"] = script.encode()

    def archive(self) -> Iterator[bytes]:
        """Yield the files as a tar archive."""
        return archive(self._files)

    def _brought(self, path: str, suffixes: tuple[str, ...]) -> str:
        """Return the name in the container of a path here, or the path itself if it stays out."""
        here = Path(path)
        if here.is_dir():
            found = [each for each in here.iterdir() if each.name.endswith(_PACKAGES)]
        else:
            found = [here] if here.is_file() and path.endswith(suffixes) else []
        self._files |= {f"here{each}": each for each in found}
        return f"{BUILD_DIRECTORY}/here{path}" if found else path


def archive(files: Mapping[str, Path | bytes]) -> Iterator[bytes]:
    """Yield a tar archive of files, which everybody may read, piece by piece."""
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

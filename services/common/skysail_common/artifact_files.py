"""The files of an artifact in a directory, the same for every format of artifacts."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from skysail_common.archives import check_archive
from skysail_common.artifacts import (
    DATA_DIRECTORY,
    FILES_DIRECTORY,
    MANIFEST_FILE,
    MODEL_FILE,
    MODULES_DIRECTORY,
    SOURCES_FILE,
    example_file,
    file_sha256,
    only_example_file,
    parse_manifest,
    read_manifest,
)
from skysail_common.errors import InvalidInput, reason_of


class UnpackedArtifact:
    """An artifact whose files are in a directory."""

    def __init__(self, directory: Path, sha256: str) -> None:
        """Read the manifest.

        Args:
            directory: Directory of the files.
            sha256: SHA-256 that identifies the artifact.

        Raises:
            InvalidInput: the directory has no manifest, or an invalid one.
        """
        self.directory = directory.absolute()
        self.sha256 = sha256
        try:
            content = (directory / MANIFEST_FILE).read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"cannot read the artifact in {directory}: {error.strerror}; deploy the version again"
            ) from error
        self.manifest = parse_manifest(content)

    @property
    def model_file(self) -> Path:
        """The pickled model; absent for formats that have files of their own."""
        return self.directory / MODEL_FILE

    @property
    def modules(self) -> Path:
        """Directory of the user's modules; may be absent."""
        return self.directory / MODULES_DIRECTORY

    @property
    def files(self) -> Path:
        """Directory of the user's files; may be absent."""
        return self.directory / FILES_DIRECTORY

    @property
    def data(self) -> Path:
        """Directory of the files of the format; may be absent."""
        return self.directory / DATA_DIRECTORY

    def sources(self) -> dict[str, list[str]]:
        """Return the source lines of pickled functions by file name."""
        try:
            content = (self.directory / SOURCES_FILE).read_bytes()
        except FileNotFoundError:
            return {}
        return dict(json.loads(content))

    def examples(self) -> list[list[tuple[tuple[int, ...], bytes]]]:
        """Return the shape and the data of each input of each example.

        Raises:
            InvalidInput: the artifact lacks the data.
        """
        manifest = self.manifest
        if manifest.example_shapes:
            return [self._example(manifest.example_shapes, only_example_file)]
        return [
            self._example(shapes, partial(example_file, number))
            for number, shapes in enumerate(manifest.examples)
        ]

    def _example(
        self, shapes: Sequence[tuple[int, ...]], name_of: Callable[[int], str]
    ) -> list[tuple[tuple[int, ...], bytes]]:
        return [(shape, self._read(name_of(index))) for index, shape in enumerate(shapes)]

    def _read(self, name: str) -> bytes:
        try:
            return (self.directory / name).read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"cannot load the artifact: it is corrupt: it lacks {name}; deploy the version again"
            ) from error


def unpack_archive(archive: Path, directory: Path) -> UnpackedArtifact:
    """Unpack a zip archive of an artifact into a directory.

    Raises:
        InvalidInput: the file is not an artifact, is corrupt or unsafe, or exceeds the free disk.
    """
    directory.mkdir(parents=True, exist_ok=True)
    check_archive(archive, shutil.disk_usage(directory).free)
    read_manifest(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(directory)
    except OSError as error:
        # The disk is full, or a path is also a folder.
        raise InvalidInput(f"cannot unpack the artifact: {reason_of(error)}") from error
    # zipfile raises these errors for damaged content.
    # RuntimeError is that of encrypted entries, and of kinds that zipfile does not implement.
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise InvalidInput(
            f"cannot load the artifact: it is corrupt: {error}; deploy the version again"
        ) from error
    return UnpackedArtifact(directory, file_sha256(archive))

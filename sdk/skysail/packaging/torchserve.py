"""The packager of model archives of TorchServe, which travel unpacked."""

import shutil
import stat
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from skysail.artifact.requirements import merge_requirements, read_requirements
from skysail.packaging.base import Packaged, PackagingOptions
from skysail.packaging.pins import pinned
from skysail.packaging.saved_files import path_of, temporary_directory
from skysail_common.artifacts import MAX_BLOBS
from skysail_common.errors import InvalidInput
from skysail_common.loaders.torchserve.loader import (
    FOLDER,
    MANIFEST_FILE,
    check_handler,
    read_manifest,
)
from skysail_common.model_functions import LIST_OUTPUT
from skysail_common.tensors import CLIPPER_SPECS, Content, InputType, Signature

_SUFFIX = ".mar"
_CHUNK_BYTES = 1 << 20

# Weights hardly shrink, and text shrinks to a tenth; a bomb shrinks to a thousandth.
_MAX_RATIO = 100
_ALWAYS_ALLOWED_BYTES = 64 << 20

_BODIES = replace(CLIPPER_SPECS[InputType.STRINGS], content=Content.JSON_OR_TEXT)
SIGNATURE = Signature((_BODIES,), (LIST_OUTPUT,))
"""Bodies of requests in, and answers out: JSON values or texts."""


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a model archive, or its unpacked folder, travels.

    Its code runs in replicas only.

    Raises:
        InvalidInput: the archive is damaged, unpacks to far more than its size, or names a handler
            that it lacks.
    """
    path = path_of(source)
    if path is None:
        return None
    is_unpacked = path.is_dir() and (path / MANIFEST_FILE).is_file()
    if not is_unpacked and (path.suffix != _SUFFIX or not path.is_file()):
        return None
    if options.method:
        raise InvalidInput(
            f"cannot deploy the model archive by method={options.method!r}: its handler answers; "
            "leave method out"
        )
    if is_unpacked:
        return _packaged(path)
    with temporary_directory() as directory:
        _unpack(path, Path(directory.name))
        return replace(_packaged(Path(directory.name)), temporary=(directory,))


def _packaged(folder: Path) -> Packaged:
    manifest = read_manifest(folder)
    check_handler(folder, manifest)
    return Packaged(
        open=None,
        loader="torchserve",
        data={FOLDER: folder},
        requirements=_requirements(folder, manifest["model"]),
        signature=SIGNATURE,
        calling="list",
    )


def _requirements(folder: Path, model: dict[str, Any]) -> tuple[str, ...]:
    file = model.get("requirementsFile")
    own = read_requirements((), folder / file) if file else ()
    defaults = [
        *(pinned("torch") if model.get("serializedFile") else ()),
        *(["pyyaml"] if model.get("configFile") else ()),
    ]
    return merge_requirements(own, defaults)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into an empty folder.

    Raises:
        InvalidInput: it is damaged, or a member is unsafe or too large.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [each for each in opened.infolist() if not each.is_dir()]
            _check_size(archive, members)
            for member in members:
                _unpack_member(opened, member, folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise InvalidInput(
            f"cannot deploy {archive}: the archive is damaged: {error}; make it again by "
            "torch-model-archiver"
        ) from error


def _check_size(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    size = sum(each.file_size for each in members)
    packed = archive.stat().st_size
    if len(members) > MAX_BLOBS:
        raise InvalidInput(
            f"cannot deploy {archive}: it has {len(members)} files, and a model may have "
            f"{MAX_BLOBS}; put them into one archive that the handler reads"
        )
    if size > max(_ALWAYS_ALLOWED_BYTES, _MAX_RATIO * packed):
        raise InvalidInput(
            f"cannot deploy {archive}: it unpacks from {packed} to {size} bytes, which is more than "
            f"{_MAX_RATIO} times its size; make it again by torch-model-archiver"
        )


def _unpack_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    pure = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if is_link or pure.is_absolute() or not pure.parts or ".." in pure.parts or "\0" in str(pure):
        raise InvalidInput(
            f"cannot deploy the model archive: its member {member.filename!r} is a link, or leads "
            "out of the archive; make the archive again by torch-model-archiver"
        )
    target = folder / pure
    target.parent.mkdir(parents=True, exist_ok=True)
    # The mode refuses a second member of the same path.
    with opened.open(member) as packed, target.open("xb") as file:
        shutil.copyfileobj(packed, file, _CHUNK_BYTES)

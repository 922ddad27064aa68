"""The packager of programs of `torch.export`, in memory or in a file."""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions, type_modules
from skysail.packaging.pins import is_installed, pinned
from skysail.packaging.saved_files import path_of, temporary_directory
from skysail_common.errors import InvalidInput
from skysail_common.loaders.torch_export import (
    PROGRAM_FILE,
    program_example,
    program_function,
    program_signature,
)

_SUFFIX = ".pt2"


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how an exported program travels: as `torch.export.save` writes it.

    Raises:
        InvalidInput: the program takes batches of one size only, or a method is given.
    """
    path = path_of(source)
    if path is None and not _is_program(source):
        return None
    if path is not None and (path.suffix != _SUFFIX or not path.is_file()):
        return None
    if options.method:
        raise InvalidInput(
            f"cannot deploy the exported program by method={options.method!r}: a program has one "
            "function; leave method out"
        )
    if path is not None:
        return _packaged(path) if is_installed("torch") else _unread(path)
    import torch

    with temporary_directory() as directory:
        saved = Path(directory.name) / PROGRAM_FILE
        torch.export.save(source, str(saved))
        return replace(_packaged(saved), temporary=(directory,))


def _unread(path: Path) -> Packaged:
    return Packaged(None, "torch-export", data={PROGRAM_FILE: path}, requirements=pinned("torch"))


def _packaged(path: Path) -> Packaged:
    import torch

    try:
        program = torch.export.load(str(path))
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"cannot deploy {path}: {error}; export the program again") from error
    function = program_function(program, "cpu")
    return replace(
        _unread(path),
        open=lambda context: function,
        signature=program_signature(program),
        example=program_example(program),
    )


def _is_program(source: Any) -> bool:
    return "torch" in type_modules(source) and type(source).__name__ == "ExportedProgram"

"""The packager of TorchScript programs, in memory or in a file."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions, type_modules
from skysail.packaging.pins import is_installed, pinned
from skysail.packaging.saved_files import opened_by, path_of, temporary_directory
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.torch_script import SCRIPT_FILE, TorchScriptLoader
from skysail_common.model_functions import Function

_SUFFIXES = (".pt", ".pth", ".ts")


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a TorchScript program travels: as `torch.jit.save` writes it.

    Raises:
        InvalidInput: a file of torch holds weights only.
    """
    path = path_of(source)
    if path is not None:
        if path.suffix not in _SUFFIXES or not path.is_file():
            return None
        _check(path)
        return _packaged(path, options)
    if "torch" not in type_modules(source):
        return None
    import torch

    if not isinstance(source, torch.jit.ScriptModule):
        return None
    with temporary_directory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # The file holds its own name, which must not differ between two deploys.
        saved = Path(directory.name) / SCRIPT_FILE
        torch.jit.save(source, str(saved))
        return _packaged(saved, options, (directory,))


def _check(path: Path) -> None:
    """Check that a file holds a program, and not weights alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    if not any("/code/" in name for name in names):
        raise InvalidInput(
            f"cannot deploy {path}: it holds weights or a pickle, and no TorchScript program; load "
            "it here and deploy the module, such as model.load_state_dict(torch.load(path)), or "
            "deploy a class whose load(context) reads it, with files="
        )


def _packaged(path: Path, options: PackagingOptions, temporary: tuple[Any, ...] = ()) -> Packaged:
    chosen = {"method": options.method} if options.method else {}
    loader = TorchScriptLoader({**chosen, "file": path.name})
    opened = opened_by(loader, path.parent)

    def open_program(context: ModelContext) -> Function:
        function = opened(context)
        function.__signature__ = loader.parameters()  # type: ignore[attr-defined]
        return function

    return Packaged(
        open=open_program if is_installed("torch") else None,
        loader="torch-script",
        options=chosen,
        data={SCRIPT_FILE: path},
        requirements=pinned("torch"),
        temporary=temporary,
    )

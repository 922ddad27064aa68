"""Loading of a model from an artifact, with exact errors if that fails."""

import json
import linecache
import logging
import os
import pickle
import platform
import sys
import traceback
import zipfile
import zlib
from pathlib import Path

import numpy as np

from skysail_common.artifacts import (
    MODEL_FILE,
    MODULES_DIRECTORY,
    SOURCES_FILE,
    Manifest,
    example_file,
    file_sha256,
    read_manifest,
)
from skysail_common.clock import MONOTONIC
from skysail_common.errors import SkysailError
from skysail_common.replica_events import place_of
from skysail_common.tensors import Array, Content, Signature, Tensor, to_numpy
from skysail_model_server.model import Model
from skysail_model_server.package_differences import PackageDifferences, compare_packages
from skysail_model_server.start_progress import StartProgress
from skysail_model_server.warm_up import DEFAULT_LIMITS, WarmUpLimits, warm_up

log = logging.getLogger(__name__)

_OWN_PACKAGES = ("skysail_common", "skysail_model_server")


class LoadFailed(SkysailError):
    """The artifact cannot be loaded, or its function fails on the warm-up query."""

    cause: str = ""
    """The cause in one line, if the message has several."""


def load_model(
    artifact: Path,
    work_dir: Path,
    limits: WarmUpLimits | None = DEFAULT_LIMITS,
    progress: StartProgress | None = None,
) -> Model:
    """Return the model in an artifact, after it has answered its warm-up query.

    The function unpacks the user's modules into `work_dir`, and puts them first on `sys.path`.

    Args:
        artifact: File of the artifact.
        work_dir: An existing directory.
        limits: Limits of the warm-up; None for no warm-up.
        progress: Receiver of the steps.

    Raises:
        LoadFailed: the message has the cause, the traceback and the missing or differing packages.
    """
    progress = progress or StartProgress(MONOTONIC)
    progress.begin("loading the model")
    manifest = read_manifest(artifact)
    _check_python(manifest)
    packages = compare_packages(manifest)
    for difference in packages.differing:
        log.warning("package versions differ", extra={"difference": difference})
    signature = manifest.signature.signature()
    try:
        with zipfile.ZipFile(artifact) as archive:
            modules = [name for name in archive.namelist() if name.startswith(MODULES_DIRECTORY)]
            archive.extractall(work_dir, modules)
            pickled = archive.read(MODEL_FILE)
            _show_sources(archive)
            example = _example(archive, manifest, signature)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise LoadFailed(
            f"cannot load the artifact: it is corrupt: {error}; deploy the version again"
        ) from error
    modules_dir = (work_dir / MODULES_DIRECTORY).resolve()
    sys.path.insert(0, str(modules_dir))
    try:
        function = pickle.loads(pickled)
    # SystemExit of user code is caught too; no signal raises here.
    except BaseException as error:
        raise _failed("loading the function failed", error, packages, modules_dir) from error
    model = Model(function, manifest.calling, signature, file_sha256(artifact))
    if example and limits is not None:
        model.example = example
        progress.begin("warming up, call 1")
        try:
            warm_up(
                model, example, limits, lambda number: progress.note(f"warming up, call {number}")
            )
        except BaseException as error:
            what = "the function failed on the warm-up query"
            raise _failed(what, error, packages, modules_dir) from error
    return model


def _show_sources(archive: zipfile.ZipFile) -> None:
    """Register the source lines of functions that were pickled by value, for tracebacks."""
    if SOURCES_FILE not in archive.namelist():
        return
    for name, lines in json.loads(archive.read(SOURCES_FILE)).items():
        texts = [f"{line}\n" for line in lines]
        # An entry without a modification time keeps linecache from looking for the file.
        linecache.cache[name] = (sum(map(len, texts)), None, texts, name)


def _check_python(manifest: Manifest) -> None:
    here, there = platform.python_version(), manifest.python_version
    if here.split(".")[:2] != there.split(".")[:2]:
        raise LoadFailed(
            f"cannot load the function: it was pickled by Python {there} and this is Python {here}; "
            "pickled code runs only on the same minor version"
        )


def _example(archive: zipfile.ZipFile, manifest: Manifest, signature: Signature) -> list[Array]:
    if not manifest.example_shapes:
        return []
    arrays = []
    for index, (spec, shape) in enumerate(
        zip(signature.inputs, manifest.example_shapes, strict=True)
    ):
        data = archive.read(example_file(index))
        tensor = Tensor(spec.name, spec.datatype, shape, data, Content(spec.content))
        # The array is a copy, because functions may write to their inputs.
        arrays.append(np.array(to_numpy(tensor)))
    return arrays


def _failed(
    what: str, error: BaseException, packages: PackageDifferences, modules_dir: Path
) -> LoadFailed:
    """Return the error with the full text of an error of user code, and its cause in one line."""
    first = ": ".join(filter(None, [what, type(error).__name__, str(error)]))
    trace = "".join(traceback.format_exception(error)).rstrip()
    hints = [*_file_hints(error, modules_dir), *packages.hints(error)]
    failed = LoadFailed("\n".join([first, trace, *hints]))
    cause = first.partition("\n")[0]
    failed.cause = "; ".join([f"{cause}{_where(error)}", *hints[:1]])
    return failed


def _file_hints(error: BaseException, modules_dir: Path) -> list[str]:
    """Return the fix for a missing file of the directory of the user's modules."""
    if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, (str, bytes)):
        return []
    file = Path(os.path.abspath(os.fsdecode(error.filename)))
    if modules_dir not in file.parents:
        return []
    return [
        f"{file.relative_to(modules_dir)} did not travel with the function: put it into a local "
        "package, whose files travel except hidden ones, notebooks and private keys, or read it "
        "into a variable before the deploy"
    ]


def _where(error: BaseException) -> str:
    """Return the innermost place in user code, for the end of a line; may be empty."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        is_ours = Path(frame.filename).parent.name in _OWN_PACKAGES
        if not is_ours and not frame.filename.startswith("<frozen"):
            return f" (in {place_of(frame.name, frame.filename, frame.lineno or 0)})"
    return ""

"""Loading of a model from an artifact, with exact errors if that fails."""

import linecache
import logging
import os
import platform
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from skysail_common.artifact_files import UnpackedArtifact
from skysail_common.artifacts import Manifest
from skysail_common.clock import MONOTONIC
from skysail_common.errors import SkysailError
from skysail_common.frames.columns import make_builder
from skysail_common.frames.packing import packed_arrays
from skysail_common.loaders.base import ModelContext, make_loader
from skysail_common.local_function import LocalFunction
from skysail_common.replica_description import ReplicaDescription
from skysail_common.replica_events import place_of
from skysail_common.tensors import Array, Content, Signature, Tensor, TensorSpec, to_numpy
from skysail_model_server.learning import learn_signature
from skysail_model_server.model import Model
from skysail_model_server.package_differences import PackageDifferences, compare_packages
from skysail_model_server.start_progress import StartProgress
from skysail_model_server.warm_up import DEFAULT_LIMITS, WarmUpLimits, warm_up

log = logging.getLogger(__name__)

_OWN_PACKAGES = frozenset({"skysail_common", "skysail_model_server"})
_STANDARD_LIBRARY = os.path.join(sysconfig.get_path("stdlib"), "")
_IMPORTLIB = os.path.join(_STANDARD_LIBRARY, "importlib", "")


class LoadFailed(SkysailError):
    """The artifact cannot be loaded, or its function fails on the warm-up query."""

    @property
    def cause(self) -> str:
        """The cause and the first hint: the first line of the message."""
        return self.message.partition("\n")[0]

    @property
    def details(self) -> str:
        """The other lines: further hints and the traceback; may be empty."""
        return self.message.partition("\n")[2]


def load_model(
    artifact: UnpackedArtifact,
    context: ModelContext | None = None,
    limits: WarmUpLimits | None = DEFAULT_LIMITS,
    progress: StartProgress | None = None,
) -> Model:
    """Return the model in an artifact, after it has answered its warm-up query.

    The user's modules come first on `sys.path`.

    Args:
        artifact: The artifact.
        context: Surroundings of the model, without its files; the defaults if None.
        limits: Limits of the warm-up; None for no warm-up.
        progress: Receiver of the steps.

    Raises:
        LoadFailed: the message has the cause, the missing or differing packages and the traceback.
    """
    progress = progress or StartProgress(MONOTONIC)
    progress.begin("loading the model")
    manifest = artifact.manifest
    _check_python(manifest)
    packages = compare_packages(manifest)
    for difference in packages.differing:
        log.warning("package versions differ", extra={"difference": difference})
    signature = manifest.signature.signature()
    _show_sources(artifact)
    examples = _examples(artifact, signature)
    modules_dir = artifact.modules.resolve()
    sys.path.insert(0, str(modules_dir))
    surroundings = replace(
        context or ModelContext(),
        directory=artifact.directory,
        data_directory=artifact.data,
        files=_files(artifact.files),
    )
    try:
        loader = make_loader(manifest.loader, manifest.options)
        function = loader.load(surroundings)
        frames = make_builder(manifest.frame) if manifest.frame else None
    # SystemExit of user code is caught too; no signal raises here.
    except BaseException as error:
        raise _failed("loading the model failed", error, packages, modules_dir) from error
    learned = None
    if not signature.is_known:
        progress.begin("learning the signature")
        local = LocalFunction(function, manifest.call_style)
        try:
            learned = learn_signature(loader, local, signature, examples, frames)
        except BaseException as error:
            what = "learning the signature failed"
            raise _failed(what, error, packages, modules_dir) from error
    known = learned or signature
    model = Model(function, manifest.call_style, known, artifact.sha256, loader, frames)
    model.description = ReplicaDescription(learned, packages.versions)
    if examples and limits is not None:
        model.example = examples[0]
        progress.begin("warming up, call 1")
        try:
            warm_up(
                model, examples, limits, lambda number: progress.note(f"warming up, call {number}")
            )
        except BaseException as error:
            what = "the function failed on the warm-up query"
            raise _failed(what, error, packages, modules_dir) from error
    return model


def _files(directory: Path) -> dict[str, Path]:
    """Return the user's files and folders by name."""
    if not directory.is_dir():
        return {}
    return {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*"))}


def _show_sources(artifact: UnpackedArtifact) -> None:
    """Register the source lines of functions that were pickled by value, for tracebacks."""
    for name, lines in artifact.sources().items():
        texts = [f"{line}\n" for line in lines]
        # An entry without a modification time keeps linecache from looking for the file.
        linecache.cache[name] = (sum(map(len, texts)), None, texts, name)


def _check_python(manifest: Manifest) -> None:
    here, there = platform.python_version(), manifest.python_version
    if not manifest.is_pickled:
        return
    if here.split(".")[:2] != there.split(".")[:2]:
        raise LoadFailed(
            f"cannot load the function: it was pickled by Python {there} and this is Python {here}; "
            "pickled code runs only on the same minor version"
        )


def _examples(artifact: UnpackedArtifact, signature: Signature) -> list[list[Array]]:
    """Return the packed inputs of each example."""
    given = [
        [_array(spec, *each) for spec, each in zip(signature.inputs, example, strict=True)]
        for example in artifact.examples()
    ]
    return [packed_arrays(signature, example) for example in given]


def _array(spec: TensorSpec, shape: tuple[int, ...], data: bytes) -> Array:
    tensor = Tensor(spec.name, spec.datatype, shape, data, Content(spec.content))
    # The array is a copy, because functions may write to their inputs.
    return np.array(to_numpy(tensor))


def _failed(
    what: str, error: BaseException, packages: PackageDifferences, modules_dir: Path
) -> LoadFailed:
    """Return the error about an error of user code: cause, hints and traceback, each once."""
    text = ": ".join(filter(None, [what, type(error).__name__, str(error)]))
    cause, _, rest = text.partition("\n")
    hints = [*_file_hints(error, modules_dir), *packages.hints(error)]
    first = "; ".join([f"{cause}{_where(error)}", *hints[:1]])
    return LoadFailed("\n".join(filter(None, [first, rest, *hints[1:], _user_trace(error)])))


def _user_trace(error: BaseException) -> str:
    """Return the traceback without frames of Skysail and of the import system.

    The error's own text is left out, because the cause has it. A traceback without other frames is
    whole, but empty if Skysail made the error.
    """
    told = traceback.TracebackException.from_exception(error)
    if all(map(_is_inner, told.stack)) and isinstance(error, SkysailError):
        return ""
    for each in _chain(told):
        outer = [frame for frame in each.stack if not _is_inner(frame)]
        if outer:
            each.stack = traceback.StackSummary.from_list(outer)
    lines, own = list(told.format()), list(told.format_exception_only())
    # The text of a syntax error has the line and a mark. Notes follow the text and stay.
    if lines[-len(own) :] == own and not isinstance(error, SyntaxError):
        del lines[-len(own)]
    return "".join(lines).rstrip()


def _chain(
    error: traceback.TracebackException | None,
) -> Iterator[traceback.TracebackException]:
    """Yield an error and those that it followed; the standard library has cut cycles."""
    if error is not None:
        yield error
        yield from _chain(error.__cause__)
        yield from _chain(error.__context__)


def _file_hints(error: BaseException, modules_dir: Path) -> list[str]:
    """Return the fix for a missing file."""
    if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, (str, bytes)):
        return []
    file = Path(os.path.abspath(os.fsdecode(error.filename)))
    problem = (
        f"{file.relative_to(modules_dir)} did not travel with the function"
        if modules_dir in file.parents
        else f"{file} is not in the replica"
    )
    return [
        f"{problem}: put it beside the module in a local package (hidden files, notebooks and "
        f"private keys stay behind), or send it by files= (--file {file.name}=PATH) to a class whose "
        f"load(context) opens context.file({file.name!r})"
    ]


def _where(error: BaseException) -> str:
    """Return the innermost place in user code, for the end of a line; may be empty.

    Without a frame of the user's own code it is a place in a library.
    """
    outer = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_inner(frame)]
    own = [frame for frame in outer if not _is_of_a_library(frame)]
    for frame in (own or outer)[-1:]:
        return f" (in {place_of(frame.name, frame.filename, frame.lineno or 0)})"
    return ""


def _is_inner(frame: traceback.FrameSummary) -> bool:
    """Return whether a frame belongs to Skysail or to the import system."""
    return frame.filename.startswith(
        ("<frozen importlib", _IMPORTLIB)
    ) or not _OWN_PACKAGES.isdisjoint(Path(frame.filename).parts)


def _is_of_a_library(frame: traceback.FrameSummary) -> bool:
    parts = Path(frame.filename).parts
    return (
        frame.filename.startswith(("<frozen", _STANDARD_LIBRARY))
        or "site-packages" in parts
        or "dist-packages" in parts
    )

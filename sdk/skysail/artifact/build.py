"""Build of an artifact from a model, with its dependencies and its signature."""

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import Any

from pydantic import ValidationError

from skysail.artifact.buffers import copy_small
from skysail.artifact.comments import strip_comments
from skysail.artifact.default_packages import default_packages
from skysail.artifact.distributions import needed_packages
from skysail.artifact.learning import Calls, learn
from skysail.artifact.local_modules import local_modules
from skysail.artifact.pickling import pickle_function
from skysail.artifact.requirements import merge_requirements, send_wheels
from skysail.artifact.state_snapshot import preserve_state
from skysail.artifact.user_code import user_code
from skysail.artifact.user_files import files_below, user_files
from skysail.packaging.base import BlobSource, Packaged, PackagingOptions, recognise
from skysail.packaging.saved_files import removed_on_failure
from skysail_common import __version__
from skysail_common.artifacts import (
    DATA_DIRECTORY,
    FILES_DIRECTORY,
    MAX_BLOBS,
    MODEL_FILE,
    MODULES_DIRECTORY,
    PYTHON_LOADER,
    SOURCES_FILE,
    Blob,
    Manifest,
    SignatureRecord,
    buffer_file,
    example_file,
    file_sha256,
    to_json,
)
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import ModelContext
from skysail_common.tensors import Signature


@dataclass(frozen=True)
class Artifact:
    """A packaged model, ready for the upload."""

    manifest: Manifest
    files: Mapping[str, BlobSource]
    """Content of each file but the manifest, by its path."""
    temporary: tuple[TemporaryDirectory[str], ...] = ()
    """Directories of files that packagers wrote."""

    @cached_property
    def manifest_bytes(self) -> bytes:
        """Content of the manifest, which lists the other files by SHA-256."""
        return to_json(self.manifest.model_dump(mode="json")).encode()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the manifest, which identifies the artifact."""
        return hashlib.sha256(self.manifest_bytes).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files; equal files count once."""
        return sum({blob.sha256: blob.size_bytes for blob in self.manifest.blobs}.values())

    @property
    def signature(self) -> Signature:
        """The inputs and outputs of the model."""
        return self.manifest.signature.signature()

    def close(self) -> None:
        """Remove the temporary files."""
        for directory in self.temporary:
            directory.cleanup()


def build_artifact(
    source: Any,
    *,
    example: Any = None,
    examples: Sequence[Any] | None = None,
    input_type: str | None = None,
    method: str | None = None,
    files: "Mapping[str, str | PathLike[str]] | None" = None,
    code: "Sequence[str | PathLike[str]]" = (),
    requirements: Sequence[str] = (),
    check: bool = True,
    batch: bool = True,
    max_concurrency: int | None = None,
    max_batch_size: int | None = None,
) -> Artifact:
    """Return the artifact of a model.

    A function or object is pickled before it runs on an example, and its state is restored
    afterwards. State that it creates lazily is therefore created in each replica. Very large arrays
    are not copied: the upload fails if the function changed them.

    Args:
        source: A function, an object or class with `predict`, or a model of a known format. It takes
            arrays [batch, …] and returns an array [batch, …], a tuple of them, or a dictionary of
            them by name. With `input_type` it takes a list of inputs and returns a list with an
            output for each.
        example: Inputs that the model can answer: an array [batch, …] (or a value that numpy
            converts to one), or a dictionary of inputs by name. The signature is inferred from it,
            and each replica answers it before it is ready. With `batch=False` it is one input,
            without the batch axis.
        examples: Several of them in place of one. An axis whose size differs between them, or
            between their outputs, may have any size. Replicas answer each of them.
        input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`, in place of an example.
        method: Method that answers queries, in place of the usual one.
        files: Paths of files and folders that travel with the model, by name.
        code: Modules and packages that travel although nothing is known to import them.
        requirements: Packages for replicas; they replace those of the format.
        check: False to call the model only for its signature: once for each example, and not at
            all with an `input_type`.
        batch: False if the model takes one input at a time and returns its output, both without a
            batch axis.
        max_concurrency: Most calls side by side in one replica, for an `async def` function or with
            `batch=False`; if None, 64 coroutines, or 1 call.
        max_batch_size: Most rows of a batch; 1 to skip the check with two rows.

    Raises:
        InvalidInput: not exactly one of `example`, `examples` and `input_type` is given, the
            model or the example has a wrong type, or a part of the model cannot be pickled
            or sent; the message names it.
        ModelFailed: the model fails on the example, or returns no arrays.
    """
    packaged = recognise(source, PackagingOptions(method))
    with removed_on_failure(packaged.temporary):
        num_given = (example is not None) + (examples is not None) + (input_type is not None)
        if num_given == 0 and packaged.example is not None:
            example, num_given = packaged.example, 1
        states_signature = packaged.signature is not None or packaged.open is None
        if num_given > 1 or (num_given == 0 and not states_signature):
            raise _wrong_examples(source, packaged, num_given)
        travelling = user_files(files or {})
        own_code = user_code(code)
        sent_requirements, wheels = send_wheels(requirements)
        pickled = _PickledCode.of(packaged)
        # The function may change its arrays while it runs; the upload refuses other content than this.
        blobs = {path: _blob(path, content) for path, content in pickled.files.items()}
        with preserve_state(pickled.functions, pickled.instances):
            learned = learn(
                packaged,
                _context(travelling, files or {}),
                [example] if example is not None else examples,
                input_type,
                Calls(batch, max_concurrency),
                check=check,
                tries_batch=check and max_batch_size != 1,
                has_requirements=bool(packaged.requirements or requirements),
            )
        frames = frozenset([learned.frame.library]) if learned.frame else frozenset()
        needed = needed_packages(pickled.not_sent | frames)
        packages = default_packages(packaged, needed, frames)
        contents = {
            **{f"{MODULES_DIRECTORY}{path}": each for path, each in own_code.items()},
            **pickled.files,
            **_below(FILES_DIRECTORY, travelling),
            **wheels,
            **_data_files(packaged),
            **{
                example_file(number, index): tensor.data
                for number, example in enumerate(learned.examples)
                for index, tensor in enumerate(example)
            },
        }
        if len(contents) > MAX_BLOBS:
            raise InvalidInput(
                f"cannot send the model: it has {len(contents)} files; at most {MAX_BLOBS} are allowed; "
                "put them into an archive that load(context) reads"
            )
        manifest = Manifest(
            loader=packaged.loader,
            options=dict(packaged.options),
            skysail_version=__version__,
            python_version=packaged.python_version or platform.python_version(),
            has_pickles=packaged.python_version is not None,
            packages=dict(packages.versions),
            modules=dict(needed.modules),
            requirements=merge_requirements(sent_requirements, packages.requirements),
            signature=SignatureRecord.of(learned.signature),
            calling=learned.style.calling,
            batch=learned.style.batch,
            is_async=learned.style.is_async,
            max_concurrency=learned.style.max_concurrency,
            takes_params=learned.style.takes_params,
            examples=tuple(tuple(each.shape for each in example) for example in learned.examples),
            frame=learned.frame,
            import_reason=pickled.import_reason,
            blobs=tuple(
                blobs.get(path) or _blob(path, contents[path]) for path in sorted(contents)
            ),
        )
        return Artifact(manifest, contents, packaged.temporary)


def _wrong_examples(source: Any, packaged: Packaged, num_given: int) -> InvalidInput:
    """Return the error for a model with no example, or with more than one statement of its inputs."""
    if isinstance(source, (str, PathLike)):
        # The name of a file is enough, and a URI has no other name.
        what = str(source) if ":/" in str(source) else Path(source).name
    else:
        is_function = packaged.loader == PYTHON_LOADER and packaged.pickled is source
        what = "the function" if is_function else f"the {type(source).__name__}"
    if num_given > 1 or what == "the function":
        return InvalidInput(
            f"cannot deploy {what}: give exactly one of example, examples and input_type"
        )
    return InvalidInput(f"cannot deploy {what}: {packaged.no_example}")


def _context(
    travelling: Mapping[str, Path], files: "Mapping[str, str | PathLike[str]]"
) -> ModelContext:
    """Return the surroundings of a model on this machine."""
    folders = {name: Path(path).absolute() for name, path in files.items()}
    here = {path: file.absolute() for path, file in travelling.items()}
    return ModelContext(files={**folders, **here}, num_threads=os.cpu_count() or 1)


@dataclass(frozen=True)
class _PickledCode:
    """The pickle of a model, with the code that it needs."""

    files: Mapping[str, BlobSource] = field(default_factory=dict)
    functions: tuple[FunctionType, ...] = ()
    instances: tuple[Any, ...] = ()
    not_sent: frozenset[str] = frozenset()
    """Modules that replicas must have."""
    import_reason: str = ""

    @classmethod
    def of(cls, packaged: Packaged) -> "_PickledCode":
        """Return the local modules of a model, and its pickle unless the format has own files."""
        if packaged.loader != PYTHON_LOADER:
            modules = local_modules(packaged.imports)
            return cls(
                _below(MODULES_DIRECTORY, modules.files),
                not_sent=_not_sent(packaged.imports | modules.imports, modules.files),
            )
        pickled = pickle_function(packaged.pickled)
        modules = local_modules(pickled.modules)
        if pickled.home_file in modules.files:
            # The file must not depend on comments either, because the pickle does not.
            source = modules.files[pickled.home_file]
            modules.files[pickled.home_file] = strip_comments(source)
        buffers = copy_small(pickled.buffers)
        return cls(
            {
                MODEL_FILE: pickled.content,
                **{buffer_file(index): each for index, each in enumerate(buffers)},
                **({SOURCES_FILE: to_json(pickled.sources).encode()} if pickled.sources else {}),
                **_below(MODULES_DIRECTORY, modules.files),
            },
            pickled.functions,
            pickled.instances,
            _not_sent(pickled.modules | modules.imports, modules.files),
            pickled.import_reason,
        )


def _below(directory: str, files: Mapping[str, BlobSource]) -> dict[str, BlobSource]:
    return {f"{directory}{path}": content for path, content in files.items()}


def _data_files(packaged: Packaged) -> dict[str, BlobSource]:
    """Return the files of the format, with the files of its folders."""
    found: dict[str, BlobSource] = {}
    for name, source in packaged.data.items():
        path = f"{DATA_DIRECTORY}{name}"
        found.update(files_below(path, source) if isinstance(source, Path) else [(path, source)])
    return found


def _blob(path: str, source: BlobSource) -> Blob:
    if isinstance(source, Path):
        sha256, size_bytes = file_sha256(source), source.stat().st_size
    else:
        sha256 = hashlib.sha256(source).hexdigest()
        size_bytes = source.nbytes if isinstance(source, memoryview) else len(source)
    try:
        return Blob(path=path, sha256=sha256, size_bytes=size_bytes)
    except ValidationError:
        raise InvalidInput(
            f"cannot send the file {path!r}: replicas cannot have this path; give it a shorter name "
            "in UTF-8"
        ) from None


def _not_sent(names: frozenset[str], files: Mapping[str, bytes]) -> frozenset[str]:
    sent = {path.partition("/")[0].removesuffix(".py") for path in files}
    return frozenset(name for name in names if name.partition(".")[0] not in sent)

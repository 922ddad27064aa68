"""The artifact of a model version: the SDK writes it, management stores it, model servers run it.

    manifest.json     description and requirements (`Manifest`); the only part management reads
    model.pkl         the model, by cloudpickle; only model servers load it; absent for formats that
                      have files of their own
    buffers/<i>.bin   large arrays of the pickle, in its order; replicas map them into memory
    modules/…         the user's own modules that the model needs, with the files beside them
    files/…           files of the user, for `ModelContext.file`
    data/…            files in which a format saved the model
    sources.json      lines of source code by file name, for tracebacks; may be absent
    example/<b>/<i>.bin   data of input i of example b, for the warm-up; example/<i>.bin in format 1

The manifest of format 2 lists the other files by SHA-256. Format 1 is a zip archive of all files.
"""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from skysail_common.call_style import MAX_CONCURRENCY, CallStyle
from skysail_common.errors import InvalidInput
from skysail_common.frames.records import FrameRecord
from skysail_common.model_functions import Calling
from skysail_common.tensors import Content, DataType, Signature, TensorSpec

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.pkl"
BUFFERS_DIRECTORY = "buffers/"
MODULES_DIRECTORY = "modules/"
SOURCES_FILE = "sources.json"
FILES_DIRECTORY = "files/"
DATA_DIRECTORY = "data/"
FORMAT = 2
"""Version of the format. Only a change that an earlier reader would misunderstand raises it. Readers
ignore unknown fields, because replicas keep the model server that they were started with."""
READABLE_FORMATS = (1, 2)
"""Versions that this Skysail reads."""

PYTHON_LOADER = "python"
"""Name of the loader of `model.pkl`."""

MAX_BLOBS = 20_000
"""Most files of one artifact, besides the manifest."""
_MAX_PATH_BYTES = 512

MAX_EXAMPLES = 64
"""Most examples of one artifact, because replicas answer all of them before they are ready."""

CHUNK_BYTES = 1024 * 1024
"""Bytes of an artifact in one message."""

MAX_MANIFEST_BYTES = 8 * 1024 * 1024
"""Largest manifest."""

# Errors of zipfile for broken, encrypted or odd archives and for other files.
_NOT_AN_ARTIFACT = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError,
)  # fmt: skip


def buffer_file(index: int) -> str:
    """Return the name of the file with buffer number `index` of the pickle."""
    return f"{BUFFERS_DIRECTORY}{index}.bin"


def example_file(number: int, index: int) -> str:
    """Return the name of the file with input `index` of example `number`."""
    return f"example/{number}/{index}.bin"


def only_example_file(index: int) -> str:
    """Return the name of the file with input `index` of the example of an artifact of format 1."""
    return f"example/{index}.bin"


class _StoredRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class SpecRecord(_StoredRecord):
    """A `TensorSpec` as JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: Content = Content.BINARY

    @classmethod
    def of(cls, spec: TensorSpec) -> "SpecRecord":
        """Return the record of a specification."""
        return cls(
            name=spec.name,
            datatype=spec.datatype.name,
            shape=spec.shape,
            content=spec.content,
        )

    def spec(self) -> TensorSpec:
        """Return the specification of this record."""
        return TensorSpec(self.name, DataType.named(self.datatype), self.shape, self.content)


class SignatureRecord(_StoredRecord):
    """A `Signature` as JSON."""

    inputs: tuple[SpecRecord, ...]
    outputs: tuple[SpecRecord, ...]
    frame: str = ""
    """Library of the data frames whose columns are the inputs; empty if they are no columns."""

    @classmethod
    def of(cls, signature: Signature) -> "SignatureRecord":
        """Return the record of a signature."""
        return cls(
            inputs=tuple(SpecRecord.of(spec) for spec in signature.inputs),
            outputs=tuple(SpecRecord.of(spec) for spec in signature.outputs),
            frame=signature.frame,
        )

    def signature(self) -> Signature:
        """Return the signature of this record."""
        return Signature(
            tuple(spec.spec() for spec in self.inputs),
            tuple(spec.spec() for spec in self.outputs),
            self.frame,
        )


class Blob(_StoredRecord):
    """One file of an artifact."""

    path: str
    """Path in the artifact, such as `data/model.onnx`."""
    sha256: str
    """SHA-256 of the content, as lower-case hexadecimal digits."""
    size_bytes: int = Field(ge=0)
    """Size of the content."""

    @field_validator("path")
    @classmethod
    def _is_inside(cls, value: str) -> str:
        # A path must not leave the directory in which a replica lays out the artifact.
        is_safe = "\0" not in value and all(
            part not in ("", ".", "..") for part in value.split("/")
        )
        encoded = value.encode(errors="replace")
        # JSON cannot hold a name that is not UTF-8, of which Python makes surrogates.
        if not is_safe or len(encoded) > _MAX_PATH_BYTES or encoded.decode() != value:
            raise ValueError(f"{value[:80]!r} is not a path inside an artifact")
        return value

    @field_validator("sha256")
    @classmethod
    def _is_sha256(cls, value: str) -> str:
        if not is_sha256(value):
            raise ValueError("a SHA-256 is 64 lower-case hexadecimal digits")
        return value


class Manifest(_StoredRecord):
    """The description of an artifact and of its requirements."""

    format: int = FORMAT
    loader: str = PYTHON_LOADER
    """Name of the loader that makes a function of the files (entry point `skysail.loaders`)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the loader, as JSON."""
    blobs: tuple[Blob, ...] = Field((), max_length=MAX_BLOBS)
    """All other files, by path; empty in format 1."""
    skysail_version: str
    """Skysail that wrote the artifact."""
    python_version: str
    """Python that wrote the artifact or its pickles, such as 3.11.7. Another minor version loads only
    artifacts without pickles."""
    has_pickles: bool = False
    """True if the files of the format hold pickles."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Distributions that the function uses, with their versions on the machine of the deploy."""
    modules: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Modules that come from `packages`, each with the distributions that contain it."""
    import_reason: str = ""
    """Reason why replicas import the module of the function from its source; empty if they load the
    module from the pickle."""
    requirements: tuple[str, ...] = ()
    """Packages that pip installs for the function, as lines of a requirements file."""
    signature: SignatureRecord
    calling: str = Field("array", pattern="^(array|keywords|mapping|list|frame)$")
    """Form in which the function takes its inputs: `array` one array [batch, …] as its only argument;
    `keywords` each array by its name; `mapping` one dictionary of arrays by name; `list` one list
    with one element per row, as in Clipper; `frame` one data frame."""
    frame: FrameRecord | None = None
    """Columns of the data frame; only for that form."""
    batch: bool = True
    """False if the function takes one input at a time, without the batch axis."""
    is_async: bool = False
    """True if the function returns a coroutine."""
    max_concurrency: int = Field(1, ge=1, le=MAX_CONCURRENCY)
    """Most calls of the function side by side in one replica."""
    takes_params: bool = False
    """True if the function takes the parameters of queries."""
    examples: tuple[tuple[tuple[int, ...], ...], ...] = Field((), max_length=MAX_EXAMPLES)
    """Shapes of the inputs of each example, which replicas answer before they are ready."""
    example_shapes: tuple[tuple[int, ...], ...] = ()
    """Shapes of the inputs of the only example, in format 1."""

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: int) -> int:
        if value not in READABLE_FORMATS:
            known = " and ".join(map(str, READABLE_FORMATS))
            raise ValueError(f"artifact format {value} is unknown; this Skysail reads {known}")
        return value

    @field_validator("blobs")
    @classmethod
    def _distinct_paths(cls, value: tuple[Blob, ...]) -> tuple[Blob, ...]:
        paths = {MANIFEST_FILE, *(blob.path for blob in value)}
        folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        if len(paths) <= len(value) or paths & folders:
            raise ValueError("two files of the artifact have the same path")
        return value

    @property
    def call_style(self) -> CallStyle:
        """How the function is called."""
        return CallStyle(
            cast(Calling, self.calling),
            batch=self.batch,
            is_async=self.is_async,
            max_concurrency=self.max_concurrency,
            takes_params=self.takes_params,
        )

    @property
    def is_pickled(self) -> bool:
        """True if only the minor version of Python that wrote the artifact can load it."""
        return self.loader == PYTHON_LOADER or self.has_pickles


def read_manifest(file: Path | IO[bytes]) -> Manifest:
    """Return the manifest of an artifact without reading its other files.

    Raises:
        InvalidInput: the file is not an artifact, or its description is inconsistent.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo(MANIFEST_FILE)
            if info.file_size > MAX_MANIFEST_BYTES:
                raise InvalidInput(
                    f"the artifact's manifest.json is larger than {MAX_MANIFEST_BYTES >> 20} MiB"
                )
            manifest = parse_manifest(archive.read(info))
            if manifest.loader == PYTHON_LOADER:
                archive.getinfo(MODEL_FILE)
    except _NOT_AN_ARTIFACT as error:
        raise InvalidInput(f"the file is not an artifact of Skysail: {error}") from error
    return manifest


def parse_manifest(content: bytes) -> Manifest:
    """Return the manifest in the content of a manifest.json.

    Raises:
        InvalidInput: the content is no manifest, or is inconsistent.
    """
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "text"
        raise InvalidInput(f"the artifact's manifest.json: {where}: {first['msg']}") from error
    signature = manifest.signature.signature()
    examples = [*manifest.examples, *filter(None, [manifest.example_shapes])]
    if any(len(example) != len(signature.inputs) for example in examples):
        raise InvalidInput("the artifact's example does not fit its signature")
    return manifest


def to_json(value: Any) -> str:
    """Return canonical JSON: equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def is_sha256(text: str) -> bool:
    """Return whether `text` is a SHA-256 as lower-case hexadecimal digits."""
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

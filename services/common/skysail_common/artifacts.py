"""The artifact of a model version: the SDK writes it, management stores it, model servers run it.

A zip archive:

    manifest.json     description and requirements (`Manifest`); the only part management reads
    model.pkl         the function, by cloudpickle; only model servers load it
    modules/…         the user's own modules that the function needs, with the files beside them
    sources.json      lines of source code by file name, for tracebacks; may be absent
    example/<i>.bin   data of the warm-up query's inputs, in the order of the signature
"""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from skysail_common.errors import InvalidInput
from skysail_common.tensors import Content, DataType, Signature, TensorSpec

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.pkl"
MODULES_DIRECTORY = "modules/"
SOURCES_FILE = "sources.json"
FORMAT = 1
"""Version of the format. Only a change that an earlier reader would misunderstand raises it. Readers
ignore unknown fields, because replicas keep the model server that they were started with."""

CHUNK_BYTES = 1024 * 1024
"""Bytes of an artifact in one message."""

_MAX_MANIFEST_BYTES = 1024 * 1024

# Errors of zipfile for broken, encrypted or odd archives and for other files.
_NOT_AN_ARTIFACT = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError,
)  # fmt: skip


def example_file(index: int) -> str:
    """Return the name of the file with the example of input number `index`."""
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

    @classmethod
    def of(cls, signature: Signature) -> "SignatureRecord":
        """Return the record of a signature."""
        return cls(
            inputs=tuple(SpecRecord.of(spec) for spec in signature.inputs),
            outputs=tuple(SpecRecord.of(spec) for spec in signature.outputs),
        )

    def signature(self) -> Signature:
        """Return the signature of this record."""
        return Signature(
            tuple(spec.spec() for spec in self.inputs), tuple(spec.spec() for spec in self.outputs)
        )


class Manifest(_StoredRecord):
    """The description of an artifact and of its requirements."""

    format: int = FORMAT
    skysail_version: str
    """Skysail that wrote the artifact."""
    python_version: str
    """Python that wrote the artifact, such as 3.11.7; another minor version cannot load it."""
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
    calling: str = Field("array", pattern="^(array|keywords|mapping|list)$")
    """Form in which the function takes its inputs: `array` one array [batch, …] as its only argument;
    `keywords` each array by its name; `mapping` one dictionary of arrays by name; `list` one list
    with one element per row, as in Clipper."""
    example_shapes: tuple[tuple[int, ...], ...] = ()
    """Shapes of the warm-up query's inputs; empty without an example."""

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: int) -> int:
        if value != FORMAT:
            raise ValueError(f"artifact format {value} is unknown; this Skysail reads {FORMAT}")
        return value


def read_manifest(file: Path | IO[bytes]) -> Manifest:
    """Return the manifest of an artifact without reading its other files.

    Raises:
        InvalidInput: the file is not an artifact, or its description is inconsistent.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo(MANIFEST_FILE)
            if info.file_size > _MAX_MANIFEST_BYTES:
                raise InvalidInput("the artifact's manifest.json is larger than 1 MiB")
            manifest = Manifest.model_validate_json(archive.read(info))
            archive.getinfo(MODEL_FILE)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "text"
        raise InvalidInput(f"the artifact's manifest.json: {where}: {first['msg']}") from error
    except _NOT_AN_ARTIFACT as error:
        raise InvalidInput(f"the file is not an artifact of Skysail: {error}") from error
    signature = manifest.signature.signature()
    if manifest.example_shapes and len(manifest.example_shapes) != len(signature.inputs):
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

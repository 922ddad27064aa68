"""Build of an artifact from a function, with its dependencies and its signature."""

import hashlib
import io
import platform
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from skysail.artifact.comments import strip_comments
from skysail.artifact.distributions import needed_packages
from skysail.artifact.examples import Example, read_example
from skysail.artifact.local_modules import local_modules
from skysail.artifact.pickling import pickle_function
from skysail.artifact.signature_inference import (
    check_callable,
    check_with_sample_inputs,
    infer_signature,
    signature_for_type,
)
from skysail.artifact.state_snapshot import preserve_state
from skysail_common import __version__
from skysail_common.artifacts import (
    MANIFEST_FILE,
    MODEL_FILE,
    MODULES_DIRECTORY,
    SOURCES_FILE,
    Manifest,
    SignatureRecord,
    example_file,
    to_json,
)
from skysail_common.errors import InvalidInput
from skysail_common.model_functions import Function
from skysail_common.tensors import Signature

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

# Model weights hardly shrink, and compressing them takes most of the time of a deploy.
_SAMPLE_BYTES = 64 * 1024
_WORTHWHILE_SHARE = 0.9


@dataclass(frozen=True)
class Artifact:
    """A packaged model, ready for the upload."""

    content: bytes
    manifest: Manifest

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, as lower-case hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def signature(self) -> Signature:
        """The inputs and outputs of the model."""
        return self.manifest.signature.signature()


def build_artifact(
    function: Function,
    *,
    example: Any = None,
    examples: Sequence[Any] | None = None,
    input_type: str | None = None,
    requirements: Sequence[str] = (),
    check: bool = True,
    max_batch_size: int | None = None,
) -> Artifact:
    """Return the artifact of a function.

    The function is pickled before it runs on an example, and its state is restored afterwards. State
    that it creates lazily is therefore created in each replica.

    Args:
        function: Takes arrays [batch, …] and returns an array [batch, …], a tuple of them, or a
            dictionary of them by name. With `input_type` it takes a list of inputs and returns a
            list with an output for each.
        example: Inputs that the function can answer: an array [batch, …] (or a value that numpy
            converts to one), or a dictionary of inputs by name. The signature is inferred from it,
            and each replica answers it before it is ready.
        examples: Several batches in place of one. An axis whose size differs between them, or
            between their outputs, may have any size. Replicas answer the first.
        input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`, in place of an example.
        requirements: Packages that pip installs for replicas.
        check: False to call the function only for its signature: once for each example, and not at
            all with an `input_type`.
        max_batch_size: Most rows of a batch; 1 to skip the check with two rows.

    Raises:
        InvalidInput: not exactly one of `example`, `examples` and `input_type` is given, the
            function or the example has a wrong type, or a part of the function cannot be pickled
            or sent; the message names it.
        ModelFailed: the function fails on the example, or returns no arrays.
    """
    check_callable(function)
    if (example is not None) + (examples is not None) + (input_type is not None) != 1:
        raise InvalidInput(
            "cannot deploy the function: give exactly one of example, examples and input_type"
        )
    given: list[Example] = []
    if input_type is None:
        batches = [example] if examples is None else list(examples)
        if not batches:
            raise InvalidInput("cannot use examples: the list is empty; give at least one batch")
        given = [read_example(function, batch) for batch in batches]
    else:
        made_up, signature = signature_for_type(input_type)
    pickled = pickle_function(function)
    modules = local_modules(pickled.modules)
    if pickled.home_file in modules.files:
        # The file must not depend on comments either, because the pickle does not.
        source = modules.files[pickled.home_file]
        modules.files[pickled.home_file] = strip_comments(source)
    with preserve_state(pickled.functions, pickled.instances):
        if given:
            tries_batch = check and max_batch_size != 1
            signature = infer_signature(function, given, tries_batch=tries_batch)
        elif check:
            check_with_sample_inputs(function, made_up)
    packages = needed_packages(_not_sent(pickled.modules | modules.imports, modules.files))
    tensors = given[0].tensors if given else ()
    manifest = Manifest(
        skysail_version=__version__,
        python_version=platform.python_version(),
        packages=dict(packages.versions),
        modules=dict(packages.modules),
        requirements=tuple(requirements),
        signature=SignatureRecord.of(signature),
        calling=given[0].calling if given else "list",
        example_shapes=tuple(tensor.shape for tensor in tensors),
        import_reason=pickled.import_reason,
    )
    members = {
        MANIFEST_FILE: to_json(manifest.model_dump(mode="json")).encode(),
        MODEL_FILE: pickled.content,
        **({SOURCES_FILE: to_json(pickled.sources).encode()} if pickled.sources else {}),
        **{f"{MODULES_DIRECTORY}{path}": modules.files[path] for path in sorted(modules.files)},
        **{example_file(index): tensor.data for index, tensor in enumerate(tensors)},
    }
    return Artifact(_zip(members), manifest)


def _not_sent(names: frozenset[str], files: Mapping[str, bytes]) -> frozenset[str]:
    sent = {path.partition("/")[0].removesuffix(".py") for path in files}
    return frozenset(name for name in names if name.partition(".")[0] not in sent)


def _zip(members: Mapping[str, bytes]) -> bytes:
    # Fixed times and a fixed order give equal content an equal SHA-256.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compresslevel=1) as archive:
        for name, content in members.items():
            method = zipfile.ZIP_DEFLATED if _shrinks(content) else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), content, method)
    return buffer.getvalue()


def _shrinks(content: bytes) -> bool:
    """Return whether compression is worthwhile, by a sample from the middle of the content."""
    begin = max(0, (len(content) - _SAMPLE_BYTES) // 2)
    sample = content[begin : begin + _SAMPLE_BYTES]
    return len(zlib.compress(sample, 1)) < _WORTHWHILE_SHARE * len(sample)

"""Makes an artifact of a function: pickles it with its dependencies, and learns its signature."""

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

# Weights hardly shrink, and deflating them takes most of the time of a deploy.
_SAMPLE_BYTES = 64 * 1024
_WORTHWHILE_SHARE = 0.9


@dataclass(frozen=True)
class Artifact:
    """A model ready to be uploaded."""

    content: bytes
    manifest: Manifest

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, as lower-case hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
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

    The function is pickled before it runs on an example, and its state is put back afterwards:
    what it makes on first use is made in each replica.

    Args:
        function: Takes arrays [batch, …] and returns an array [batch, …], a tuple of them, or a
            dictionary of them by name. With `input_type` it takes a list of inputs and returns a
            list with an output for each.
        example: Inputs that the function can answer: an array [batch, …] (or what numpy makes
            one of), or a dictionary of such by name. The function is run on it to learn its
            signature, and each replica answers it before it is ready.
        examples: Several such batches in place of one. Sizes in which they, or what the function
            returns for them, differ may vary. Replicas answer the first.
        input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`, in place of an example.
        requirements: What pip must install where the function runs.
        check: False to run the function only as far as its signature needs: once for each
            example, and not at all with an `input_type`.
        max_batch_size: Most rows that it is called with; 1 to not try two.

    Raises:
        InvalidInput: not exactly one of `example`, `examples` and `input_type` is given, the
            function or the example is of a wrong kind, or something in the function cannot be
            pickled or sent; the message names it.
        ModelFailed: the function fails on the example, or returns something that is no array.
    """
    check_callable(function)
    if (example is not None) + (examples is not None) + (input_type is not None) != 1:
        raise InvalidInput("give either an example, several as examples, or an input_type")
    given: list[Example] = []
    if input_type is None:
        batches = [example] if examples is None else list(examples)
        if not batches:
            raise InvalidInput("examples is empty; give at least one batch")
        given = [read_example(function, batch) for batch in batches]
    else:
        made_up, signature = signature_for_type(input_type)
    pickled = pickle_function(function)
    modules = local_modules(pickled.modules)
    if pickled.home_file in modules.files:
        # The pickle holds the module's functions, without comments and line numbers.
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
    # Fixed times and a fixed order: the same content has the same SHA-256.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compresslevel=1) as archive:
        for name, content in members.items():
            method = zipfile.ZIP_DEFLATED if _shrinks(content) else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), content, method)
    return buffer.getvalue()


def _shrinks(content: bytes) -> bool:
    """Return whether a content is worth compressing, judged by a sample from its middle."""
    begin = max(0, (len(content) - _SAMPLE_BYTES) // 2)
    sample = content[begin : begin + _SAMPLE_BYTES]
    return len(zlib.compress(sample, 1)) < _WORTHWHILE_SHARE * len(sample)

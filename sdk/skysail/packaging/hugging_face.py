"""The packager of models of Hugging Face: folders, and pipelines in memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions, type_modules
from skysail.packaging.pins import is_installed, pinned
from skysail.packaging.saved_files import path_of, temporary_directory
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.hugging_face import (
    CONFIG_FILE,
    FOLDER,
    GENERATION,
    HuggingFaceLoader,
    read_config,
    task_of,
    task_signature,
)
from skysail_common.model_functions import Function

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a model travels: as its folder, which a pipeline answers.

    Raises:
        InvalidInput: the task is unknown or not supported, or the folder lacks a tokenizer.
    """
    path = path_of(source)
    if path is not None:
        return _of_folder(path, options.method) if _is_folder(path) else None
    if not _is_pipeline(source):
        return None
    with temporary_directory() as directory:
        source.save_pretrained(directory.name)
        packaged = _of_folder(Path(directory.name), options.method or source.task)
        return replace(packaged, temporary=(directory,))


def _is_folder(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file() and any(
        next(path.glob(pattern), None) for pattern in _WEIGHTS
    )


def _is_pipeline(source: Any) -> bool:
    return "transformers" in type_modules(source) and any(
        cls.__name__ == "Pipeline" for cls in type(source).__mro__
    )


def _of_folder(path: Path, wanted: str | None) -> Packaged:
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise InvalidInput(
            f"cannot deploy {path}: it has no tokenizer ({', '.join(_TOKENIZERS)}); save it by "
            "tokenizer.save_pretrained(folder)"
        )
    config = read_config(path)
    task = task_of(config, wanted)
    loader_options = {"task": task}

    def open_folder(context: ModelContext) -> Function:
        return HuggingFaceLoader(loader_options).open(path, context)

    can_run = is_installed("transformers") and is_installed("torch")
    return Packaged(
        open=open_folder if can_run else None,
        loader="hugging-face",
        options=loader_options,
        data={FOLDER: path},
        requirements=pinned("transformers", "torch"),
        signature=task_signature(task, config),
        takes_params=task == GENERATION,
    )

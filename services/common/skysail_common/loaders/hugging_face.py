"""Folders of Hugging Face, which a pipeline of transformers answers."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from skysail_common.errors import InvalidInput
from skysail_common.json_or_text import elements_of
from skysail_common.loaders import torch_tensors
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.model_functions import OUTPUT_NAME, Function
from skysail_common.tensors import Array, Content, DataType, Signature, TensorSpec

FOLDER = "model"
CONFIG_FILE = "config.json"

INPUT = "text"
GENERATION = "text-generation"
"""Task whose queries may have parameters."""
_PARAMS = (
    "do_sample", "max_new_tokens", "min_new_tokens", "repetition_penalty", "temperature", "top_k", "top_p",
)  # fmt: skip
_TEXTS = TensorSpec(INPUT, DataType.BYTES, (-1,), Content.TEXT)
_VALUES = TensorSpec(OUTPUT_NAME, DataType.BYTES, (-1,), Content.JSON_OR_TEXT)
_EMBEDDING = "embedding"
_OUTPUTS = {
    "text-classification": (
        TensorSpec("label", DataType.BYTES, (-1,), Content.TEXT),
        TensorSpec("score", DataType.FP32, (-1,)),
    ),
    "token-classification": (_VALUES,),
    "fill-mask": (_VALUES,),
    GENERATION: (TensorSpec("generated_text", DataType.BYTES, (-1,), Content.TEXT),),
    "feature-extraction": (TensorSpec(_EMBEDDING, DataType.FP32, (-1, -1)),),
}
_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": GENERATION,
    "LMHeadModel": GENERATION,
    "Model": "feature-extraction",
}
"""Task by the end of the name of the class."""
_SIZES = ("hidden_size", "d_model", "n_embd", "dim")

# Tokenizers without a limit say a number of this size.
_NO_LIMIT = 10**9


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of the model in a folder.

    Raises:
        InvalidInput: the file is not a JSON object.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"cannot read {folder / CONFIG_FILE}: {error}; check the file"
        ) from error
    if not isinstance(config, dict):
        raise InvalidInput(
            f"cannot read {folder / CONFIG_FILE}: it is no JSON object; check the file"
        )
    return config


def task_of(config: Mapping[str, Any], wanted: str | None) -> str:
    """Return the task of a model.

    Args:
        config: Its configuration.
        wanted: Task that the caller chose; None for that of the architecture.

    Raises:
        InvalidInput: the task is not supported, or the architecture does not tell it.
    """
    if wanted is not None and wanted not in _OUTPUTS:
        raise InvalidInput(
            f"cannot deploy the Hugging Face model for the task {wanted!r}: supported are "
            f"{', '.join(_OUTPUTS)}; deploy a class whose load(context) makes the pipeline"
        )
    architectures = config.get("architectures") or [""]
    found = next(
        (task for end, task in _TASKS.items() if str(architectures[0]).endswith(end)), None
    )
    task = wanted or found
    if task is None:
        raise InvalidInput(
            f"cannot deploy the Hugging Face model: its architecture {architectures[0]!r} tells no "
            f"task; give method= with one of {', '.join(_OUTPUTS)}"
        )
    return task


def task_signature(task: str, config: Mapping[str, Any]) -> Signature:
    """Return the signature of a task: texts in, and outputs by name."""
    outputs = _OUTPUTS[task]
    size = next((config[key] for key in _SIZES if isinstance(config.get(key), int)), None)
    if task == "feature-extraction" and size:
        outputs = (TensorSpec(_EMBEDDING, DataType.FP32, (-1, size)),)
    return Signature((_TEXTS,), outputs)


class HuggingFaceLoader(Loader):
    """The loader of a folder of Hugging Face.

    Options:
        task: Task of the pipeline.
    """

    _config: Mapping[str, Any] = {}

    @override
    def load(self, context: ModelContext) -> Function:
        # A replica reads its own files only; without a network the hub would delay its start.
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        return self.open(context.data(FOLDER), context)

    def open(self, folder: Path, context: ModelContext) -> Function:
        """Return the function of a folder."""
        torch_tensors.prepare(context)
        import transformers

        self._config = read_config(folder)
        pipeline = transformers.pipeline(
            self.options["task"], model=str(folder), tokenizer=str(folder), device=context.device
        )
        _prepare_tokenizer(pipeline)
        answer = _ANSWERS[self.options["task"]]

        def predict(inputs: Any, *, params: Mapping[str, Any] | None = None) -> Any:
            texts = inputs[INPUT] if isinstance(inputs, Mapping) else inputs
            return answer(pipeline, [str(text) for text in texts], **_checked(params or {}))

        return predict

    @override
    def signature(self) -> Signature:
        return task_signature(self.options["task"], self._config)


def _prepare_tokenizer(pipeline: Any) -> None:
    """Let the tokenizer make batches, and cut texts that are too long for the model."""
    tokenizer, config = pipeline.tokenizer, pipeline.model.config
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    longest = getattr(config, "max_position_embeddings", None)
    if tokenizer.model_max_length > _NO_LIMIT and longest:
        tokenizer.model_max_length = longest


def _checked(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of a query.

    Raises:
        InvalidInput: one is unknown.
    """
    for name in params:
        if name not in _PARAMS:
            raise InvalidInput(
                f"cannot generate with the parameter {name!r}: known are {', '.join(_PARAMS)}; "
                "correct params"
            )
    return params


def _labels(pipeline: Any, texts: Sequence[str]) -> dict[str, Any]:
    answers = pipeline(texts, batch_size=_batch_size(pipeline, texts), truncation=True)
    return {
        "label": np.array([each["label"] for each in answers], object),
        "score": np.array([each["score"] for each in answers], np.float32),
    }


def _entities(pipeline: Any, texts: Sequence[str]) -> dict[str, Array]:
    return _values(pipeline(texts, batch_size=_batch_size(pipeline, texts)))


def _fillings(pipeline: Any, texts: Sequence[str]) -> dict[str, Array]:
    answers = pipeline(
        texts, batch_size=_batch_size(pipeline, texts), tokenizer_kwargs={"truncation": True}
    )
    # The pipeline answers a list with one text as if it were that text.
    return _values([answers] if len(texts) == 1 else answers)


def _continuations(pipeline: Any, texts: Sequence[str], **params: Any) -> dict[str, Any]:
    # Padding on the right would come between the text and its continuation.
    pipeline.tokenizer.padding_side = "left"
    answers = pipeline(texts, batch_size=_batch_size(pipeline, texts), **params)
    return {"generated_text": np.array([each[0]["generated_text"] for each in answers], object)}


def _embeddings(pipeline: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Return the mean of the last hidden states over the tokens of each text."""
    import torch

    tokenizer, model = pipeline.tokenizer, pipeline.model
    size = _batch_size(pipeline, texts)
    means = []
    with torch.inference_mode():
        for first in range(0, len(texts), size):
            part = list(texts[first : first + size])
            tokens = tokenizer(part, padding=size > 1, truncation=True, return_tensors="pt")
            tokens = tokens.to(model.device)
            states = model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1)
            means.append(((states * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy())
    return {_EMBEDDING: np.concatenate(means)}


def _batch_size(pipeline: Any, texts: Sequence[str]) -> int:
    return len(texts) if pipeline.tokenizer.pad_token_id is not None else 1


def _values(answers: Sequence[Any]) -> dict[str, Array]:
    array = np.empty(len(answers), dtype=object)
    array[:] = elements_of(answers)
    return {OUTPUT_NAME: array}


_ANSWERS: dict[str, Callable[..., dict[str, Any]]] = {
    "text-classification": _labels,
    "token-classification": _entities,
    "fill-mask": _fillings,
    GENERATION: _continuations,
    "feature-extraction": _embeddings,
}

"""Models of Hugging Face, made here with a vocabulary of a few words."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    "good", "bad", "very", "film", "the", "a", "was", "not", "great", "awful", ".",
]  # fmt: skip
TEXTS = np.array(["the film was very good", "awful", "not a bad film . not awful ."], object)


def folder_of(kind: str, number: int, folder: Path) -> Path:
    """Return a folder with a model of random weights and its tokenizer."""
    import torch
    import transformers

    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(number)
    if kind == "GPT2LMHeadModel":
        config = transformers.GPT2Config(
            vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=2,
            eos_token_id=3,
        )  # fmt: skip
    else:
        config = transformers.BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=32,
            id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1},
            # Weights of the usual size would give every text nearly the same score.
            initializer_range=1.0,
        )  # fmt: skip
    model = getattr(transformers, kind)(config).eval()
    path = folder / kind
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def pipeline(path: Path, task: str) -> Any:
    import transformers

    return transformers.pipeline(task, model=str(path), device="cpu")


def labels(made: Any, batch: Any) -> dict[str, Any]:
    pipe = pipeline(made, "text-classification") if isinstance(made, Path) else made
    found = [pipe(text)[0] for text in batch]
    return {
        "label": np.array([each["label"] for each in found], object),
        "score": np.array([each["score"] for each in found]),
    }


def embeddings(path: Path, batch: Any) -> dict[str, Any]:
    pipe = pipeline(path, "feature-extraction")
    return {"embedding": np.array([np.mean(pipe(text)[0], axis=0) for text in batch])}


def in_memory(number: int, folder: Path) -> Any:
    return pipeline(
        folder_of("BertForSequenceClassification", number, folder), "text-classification"
    )


def _case(name: str, make: Any, predict: Any) -> Case:
    return Case(
        name, make, lambda: TEXTS, predict, needs=["transformers", "torch"],
        module="transformers", needs_same_python=False, tolerance=1e-5,
    )  # fmt: skip


CASES = [
    _case("hugging-face", partial(folder_of, "BertForSequenceClassification"), labels),
    _case("hugging-face-pipeline", in_memory, labels),
    _case("hugging-face-embeddings", partial(folder_of, "BertModel"), embeddings),
]

"""The tasks of Hugging Face that the contract does not run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skysail
from formats import unpacked
from formats.cases.hugging_face import TEXTS, folder_of, pipeline
from skysail.artifact.build import build_artifact
from skysail_common.errors import InvalidInput
from skysail_common.json_or_text import value_of

pytest.importorskip("transformers")
pytest.importorskip("torch")


def answers(folder: Path, directory: Path, texts: Any, **options: Any) -> list[Any]:
    unpacked.write(build_artifact(folder, **options), directory)
    (found,) = unpacked.load(directory).predict([np.array(texts, object)], len(texts))
    return list(found)


def rounded(value: Any) -> Any:
    """Return a value with numbers that padding does not change."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(float(value), 4) if hasattr(value, "__round__") else value


@pytest.mark.parametrize("num_rows", [1, 3])
def test_tokens_are_classified(tmp_path: Path, num_rows: int):
    folder = folder_of("BertForTokenClassification", 0, tmp_path)
    pipe = pipeline(folder, "token-classification")
    found = answers(folder, tmp_path / "a", TEXTS[:num_rows])
    assert [rounded(value_of(each)) for each in found] == [
        rounded(pipe(t)) for t in TEXTS[:num_rows]
    ]


@pytest.mark.parametrize("num_rows", [1, 2])
def test_masks_are_filled(tmp_path: Path, num_rows: int):
    folder = folder_of("BertForMaskedLM", 0, tmp_path)
    texts = ["the film was [MASK]", "[MASK] bad"][:num_rows]
    pipe = pipeline(folder, "fill-mask")
    found = answers(folder, tmp_path / "a", texts)
    assert [rounded(value_of(each)) for each in found] == [rounded(pipe(text)) for text in texts]


def test_a_text_without_a_mask_is_an_error(tmp_path: Path):
    folder = folder_of("BertForMaskedLM", 0, tmp_path)
    with pytest.raises(Exception, match="No mask_token"):
        answers(folder, tmp_path / "a", ["the film"])


def test_texts_are_continued(tmp_path: Path):
    folder = folder_of("GPT2LMHeadModel", 0, tmp_path)
    pipe = pipeline(folder, "text-generation")
    texts = ["the film was", "bad"]
    # A model with random weights continues a text always in the same way if it does not sample.
    found = answers(folder, tmp_path / "a", texts)
    for text, each in zip(texts, found, strict=True):
        assert each.startswith(text)
    assert answers(folder, tmp_path / "b", texts[:1]) == [pipe(texts[0])[0]["generated_text"]]


def test_generation_takes_parameters(tmp_path: Path, client: skysail.Client):
    version = client.deploy(folder_of("GPT2LMHeadModel", 0, tmp_path), name="story")
    prompt = "the film was"
    pipe = pipeline(tmp_path / "GPT2LMHeadModel", "text-generation")
    params = {"max_new_tokens": 7, "do_sample": False}
    found = client.predict("story", prompt, params=params).outputs["generated_text"]
    assert found == pipe(prompt, **params)[0]["generated_text"]
    with pytest.raises(skysail.SkysailError, match="parameter 'weights': known are do_sample"):
        client.predict("story", prompt, params={"weights": 1})
    client.undeploy("story", version.version, force=True)


def test_long_texts_are_cut(tmp_path: Path):
    folder = folder_of("BertForSequenceClassification", 0, tmp_path)
    unpacked.write(build_artifact(folder), tmp_path / "a")
    model = unpacked.load(tmp_path / "a")
    labels, scores = model.predict([np.array(["very " * 500, "good"], object)], 2)
    assert len(labels) == len(scores) == 2


def test_another_task_is_chosen_by_method(tmp_path: Path):
    folder = folder_of("BertForMaskedLM", 0, tmp_path)
    artifact = build_artifact(folder, method="feature-extraction")
    assert [each.name for each in artifact.signature.outputs] == ["embedding"]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path):
    folder = folder_of("BertModel", 0, tmp_path)
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(InvalidInput, match="it has no tokenizer"):
        build_artifact(folder)

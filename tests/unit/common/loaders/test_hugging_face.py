from pathlib import Path

import pytest

from skysail_common.errors import InvalidInput
from skysail_common.loaders.hugging_face import read_config, task_of, task_signature


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("DistilBertForTokenClassification", "token-classification"),
        ("RobertaForMaskedLM", "fill-mask"),
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("BertModel", "feature-extraction"),
    ],
)
def test_the_architecture_tells_the_task(architecture: str, task: str):
    assert task_of({"architectures": [architecture]}, None) == task
    assert task_of({"architectures": [architecture]}, "fill-mask") == "fill-mask"


@pytest.mark.parametrize("config", [{}, {"architectures": []}, {"architectures": ["ViTForImages"]}])
def test_an_architecture_without_a_task_is_refused(config: dict[str, object]):
    with pytest.raises(InvalidInput, match="tells no task; give method= with one of"):
        task_of(config, None)


def test_an_unsupported_task_is_refused():
    with pytest.raises(InvalidInput, match="'translation': supported are text-classification"):
        task_of({"architectures": ["BertModel"]}, "translation")


def test_the_size_of_an_embedding_is_that_of_the_model():
    (output,) = task_signature("feature-extraction", {"hidden_size": 16}).outputs
    assert (output.name, output.shape) == ("embedding", (-1, 16))
    (output,) = task_signature("feature-extraction", {}).outputs
    assert output.shape == (-1, -1)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_damaged_configuration_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InvalidInput, match="check the file"):
        read_config(tmp_path)

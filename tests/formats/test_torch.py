"""What the contract does not ask of modules, scripts and programs of torch."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from formats import unpacked
from skysail.artifact.build import build_artifact
from skysail_common.errors import FailedPrecondition, InvalidInput, ModelFailed
from skysail_common.loaders.base import ModelContext, make_loader
from skysail_model_server.model import Model

torch = pytest.importorskip("torch")

# Modules of this file are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

X = np.array([[1, 2, 3, 4], [0.5, -1, 2, 0]], np.float32)


class Pair(NamedTuple):
    total: Any
    largest: Any


class Many(torch.nn.Module):
    """A module with an output of the wanted form."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)
        self.form = form

    def forward(self, x, scale=None):
        y = self.linear(x) * (1 if scale is None else scale)
        return {
            "tuple": (y, y.argmax(1)),
            "named": Pair(y.sum(1), y.max(1).values),
            "dict": {"scores": y, "best": y.argmax(1)},
            "half": y.to(torch.bfloat16),
        }[self.form]


def load(source: Any, directory: Path, **options: Any) -> Model:
    artifact = build_artifact(source, **options)
    unpacked.write(artifact, directory)
    artifact.close()
    return unpacked.load(directory)


@pytest.mark.parametrize(
    ("form", "outputs"),
    [
        ("tuple", {"output0": "FP32", "output1": "INT64"}),
        ("named", {"total": "FP32", "largest": "FP32"}),
        ("dict", {"scores": "FP32", "best": "INT64"}),
        ("half", {"output": "FP32"}),
    ],
)
def test_outputs_of_each_form(tmp_path: Path, form: str, outputs: dict[str, str]):
    model = load(Many(form), tmp_path, example=X)
    assert {each.name: each.datatype.name for each in model.signature.outputs} == outputs
    assert [each.name for each in model.signature.inputs] == ["x"]
    assert all(len(each) == 2 for each in model.predict([X.copy()], 2))


def test_several_inputs_have_the_names_of_the_parameters(tmp_path: Path):
    module = Many("dict")
    model = load(module, tmp_path, example={"x": X, "scale": np.full((2, 1), 2, np.float32)})
    assert [each.name for each in model.signature.inputs] == ["x", "scale"]
    scores, _ = model.predict([X.copy(), np.ones((2, 1), np.float32)], 2)
    np.testing.assert_allclose(scores, module.linear(torch.from_numpy(X)).detach(), rtol=1e-6)


def test_the_module_stays_as_it_was(tmp_path: Path):
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(4))
    module[1].eval()
    before = module[1].running_mean.clone()
    load(module, tmp_path, example=X)
    assert (module.training, module[0].training, module[1].training) == (True, True, False)
    assert torch.equal(module[1].running_mean, before)


def test_a_compiled_module_travels_uncompiled(tmp_path: Path):
    module = torch.nn.Linear(4, 2)
    compiled = torch.compile(module)
    (found,) = load(compiled, tmp_path, example=X).predict([X.copy()], 2)
    np.testing.assert_allclose(found, module(torch.from_numpy(X)).detach(), rtol=1e-6)


def test_a_method_answers(tmp_path: Path):
    module = torch.nn.Module()
    module.linear = torch.nn.Linear(4, 2)
    with pytest.raises(InvalidInput, match="has no method 'embed'; correct method="):
        build_artifact(module, example=X, method="embed")


def test_the_wrong_datatype_is_explained():
    with pytest.raises(
        ModelFailed, match=r"are float64, .* are float32: .* x\.astype\('float32'\)"
    ):
        build_artifact(torch.nn.Linear(4, 2), example=X.astype(np.float64))


def test_texts_are_refused():
    with pytest.raises(ModelFailed, match="torch has no tensors of texts"):
        build_artifact(torch.nn.Linear(4, 2), example=["a", "b"])


def test_outputs_of_transformers_are_named(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=10, n_embd=8, n_layer=1, n_head=1, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    module = transformers.GPT2LMHeadModel(config)
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    model = load(module, tmp_path, example={"input_ids": ids, "attention_mask": np.ones_like(ids)})
    # The cache of keys and values is no tensor.
    assert [each.name for each in model.signature.outputs] == ["logits"]
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(ids)).logits
    (found,) = model.predict([ids, np.ones_like(ids)], 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_gpu_that_is_not_there_is_an_error(tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(4, 2)).save(str(tmp_path / "model.pt"))
    loader = make_loader("torch-script", {})
    context = ModelContext(data_directory=tmp_path, device="cuda:0")
    with pytest.raises(FailedPrecondition, match=r"on cuda:0: torch .* sees no GPU .* gpus=0"):
        loader.load(context)


def test_weights_alone_are_refused(tmp_path: Path):
    torch.save(torch.nn.Linear(4, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InvalidInput, match="holds weights or a pickle, and no TorchScript"):
        build_artifact(tmp_path / "weights.pt", example=X)


def export(rows: int, **dynamic: Any) -> Any:
    example = (torch.ones(rows, 4),)
    return torch.export.export(torch.nn.Linear(4, 2).eval(), example, **dynamic)


def test_a_program_states_its_signature_and_brings_its_example(tmp_path: Path):
    batch = torch.export.Dim("batch", max=8)
    program = export(3, dynamic_shapes=({0: batch},))
    model = load(program, tmp_path)
    (spec,) = model.signature.inputs
    assert (spec.name, spec.datatype.name, spec.shape) == ("input", "FP32", (-1, 4))
    assert len(list((tmp_path / "example").rglob("*.bin"))) == 1


@pytest.mark.parametrize("rows", [1, 8, 9, 20])
def test_a_program_with_a_largest_batch_answers_larger_ones(tmp_path: Path, rows: int):
    program = export(3, dynamic_shapes=({0: torch.export.Dim("batch", max=8)},))
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    (found,) = load(program, tmp_path).predict([x], rows)
    expected = torch.cat([program.module()(each) for each in torch.from_numpy(x).split(8)])
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-5, atol=1e-6)


def test_a_program_of_one_row_answers_row_by_row(tmp_path: Path):
    program = export(1)
    (found,) = load(program, tmp_path).predict([X.copy()], 2)
    rows = [program.module()(torch.from_numpy(X[i : i + 1])).detach() for i in range(2)]
    np.testing.assert_allclose(found, np.concatenate(rows), rtol=1e-6)


def test_a_program_of_another_fixed_batch_is_refused():
    with pytest.raises(InvalidInput, match=r"'input' has a batch axis of the fixed size 3, .*Dim"):
        build_artifact(export(3))


def test_a_damaged_program_is_refused(tmp_path: Path):
    (tmp_path / "m.pt2").write_bytes(b"no archive")
    with pytest.raises(InvalidInput, match="export the program again"):
        build_artifact(tmp_path / "m.pt2")

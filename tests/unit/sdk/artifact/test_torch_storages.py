"""Tensors of torch that a function holds; an environment without torch skips these tests."""

import pickle
from typing import Any

import pytest

from skysail.artifact.pickling import Pickled, pickle_function

torch = pytest.importorskip("torch")


def loaded(value: Any) -> Any:
    return value_in(pickle_function(lambda _: value))


def value_in(pickled: Pickled) -> Any:
    buffers = [bytearray(buffer) for buffer in pickled.buffers]
    return pickle.loads(pickled.content, buffers=buffers)(None)


def test_a_large_tensor_is_a_view_of_its_memory():
    weights = torch.arange(100_000.0)
    [buffer] = pickle_function(lambda _: weights).buffers
    weights[0] = 7.0
    assert torch.frombuffer(buffer, dtype=torch.float32)[0] == 7.0


@pytest.mark.parametrize(
    "name", ["float32", "bfloat16", "float16", "int8", "bool", "complex64", "uint16"]
)
@pytest.mark.parametrize("size", [0, 3, 100_000])
def test_tensors_of_every_type_and_size(name: str, size: int):
    tensor = torch.ones(size).to(getattr(torch, name))
    found = loaded(tensor)
    assert found.dtype == tensor.dtype
    assert torch.equal(found, tensor)


def test_a_module_keeps_its_parameters_and_their_sharing():
    module = torch.nn.Sequential(
        torch.nn.Embedding(500, 64), torch.nn.Linear(64, 500, bias=False)
    ).requires_grad_(True)
    module[1].weight = module[0].weight
    module[0].weight.requires_grad_(False)
    found = loaded(module)
    assert found[0].weight is found[1].weight
    assert isinstance(found[0].weight, torch.nn.Parameter)
    assert not found[0].weight.requires_grad
    assert torch.equal(found[0].weight, module[0].weight)
    assert len(pickle_function(lambda _: module).buffers) == 1


def test_views_of_one_storage_stay_views():
    base = torch.arange(100_000.0)
    part = base[10:50_010].view(100, 500).t()
    found_base, found_part = loaded((base, part))
    assert found_part.stride() == part.stride()
    found_base[10] = 7.0
    assert found_part[0, 0] == 7.0


def test_a_loaded_tensor_can_be_trained():
    weights = torch.ones(100_000, requires_grad=True)
    found = loaded(weights)
    (found * 2).sum().backward()
    assert found.is_leaf
    assert found.grad[0] == 2.0


def test_a_sparse_tensor_arrives():
    tensor = torch.eye(300).to_sparse()
    assert torch.equal(loaded(tensor).to_dense(), tensor.to_dense())


def test_equal_modules_have_equal_pickles():
    def pickled() -> tuple[bytes, list[bytes]]:
        torch.manual_seed(1)
        module = torch.nn.Linear(300, 300)
        made = pickle_function(lambda x: module(x))
        return made.content, [bytes(buffer) for buffer in made.buffers]

    assert pickled() == pickled()

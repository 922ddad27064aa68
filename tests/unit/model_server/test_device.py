import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from skysail_model_server import device
from skysail_model_server.device import choose_device


class Torch(ModuleType):
    """A torch that records the cap of its memory."""

    def __init__(self, works: bool) -> None:
        super().__init__("torch")
        self.__spec__ = SimpleNamespace(name="torch")  # type: ignore[assignment]
        self.caps: list[tuple[float, int]] = []
        self.cuda = SimpleNamespace(
            is_available=lambda: works,
            set_per_process_memory_fraction=lambda *cap: self.caps.append(cap),
        )


@pytest.fixture
def torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Torch:
    made = Torch(getattr(request, "param", True))
    monkeypatch.setitem(sys.modules, "torch", made)
    return made


def test_a_replica_without_gpus_uses_the_cpu(torch: Torch):
    assert choose_device(0) == "cpu"
    assert torch.caps == []


@pytest.mark.parametrize(("gpus", "caps"), [(0.25, [(0.25, 0)]), (1, []), (2, [])])
def test_the_memory_of_torch_is_capped_to_the_fraction(torch: Torch, gpus: float, caps: Any):
    assert choose_device(gpus) == "cuda:0"
    assert torch.caps == caps


@pytest.mark.parametrize("torch", [False], indirect=True)
def test_a_torch_without_cuda_uses_the_cpu(torch: Torch):
    assert choose_device(0.5) == "cpu"
    assert torch.caps == []


@pytest.mark.parametrize(("probe", "found"), [("", "cuda:0"), ("raise SystemExit(1)", "cpu")])
def test_without_torch_the_driver_decides(monkeypatch, probe: str, found: str):
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(device, "_PROBE", probe)
    assert choose_device(1) == found

"""A model archive of TorchServe: a handler with a base class of `ts`, and the weights of a module."""

import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case

HANDLER = """
import torch
from ts.torch_handler.base_handler import BaseHandler


class Sums(BaseHandler):
    def preprocess(self, data):
        rows = [row["body"]["numbers"] for row in data]
        return torch.tensor(rows, dtype=torch.float32, device=self.device)

    def postprocess(self, data):
        return [self.mapping[str(index)] for index in data.argmax(1).tolist()]
"""

MODEL = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x)
"""

BODIES = [json.dumps({"numbers": row}) for row in ([1, 2, 3], [-4, 0, 1], [2, -9, 4])]


def archive(number: int, folder: Path) -> Path:
    """Return an archive as torch-model-archiver makes it."""
    import torch

    torch.manual_seed(number)
    (folder / "net.py").write_text(MODEL, encoding="utf-8")
    torch.save(_module(folder).state_dict(), folder / "net.pt")
    path = folder / "sums.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        described = {
            "modelName": "sums", "modelVersion": "1.0", "handler": "handler.py",
            "modelFile": "net.py", "serializedFile": "net.pt",
        }  # fmt: skip
        manifest = {"runtime": "python", "archiverVersion": "0.12.0", "model": described}
        out.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        out.writestr("handler.py", HANDLER)
        out.writestr("index_to_name.json", json.dumps({"0": "small", "1": f"large {number}"}))
        out.write(folder / "net.py", "net.py")
        out.write(folder / "net.pt", "net.pt")
    return path


def answer(path: Path, batch: Any) -> Any:
    import torch

    module = _module(path.parent)
    module.load_state_dict(torch.load(path.parent / "net.pt"))
    rows = torch.tensor([json.loads(body)["numbers"] for body in batch], dtype=torch.float32)
    names = ["small", f"large {1 if path.parent.name == 'other' else 0}"]
    with torch.inference_mode():
        return np.array([names[index] for index in module(rows).argmax(1).tolist()], object)


def _module(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("net_of_archive", folder / "net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Net()


CASES = [
    Case(
        "torchserve", archive, lambda: BODIES, answer, needs=["torch"], module="torch",
        needs_same_python=False,
    )
]  # fmt: skip

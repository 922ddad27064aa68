"""The three formats of torch."""

from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case

ROWS = np.array([[1, 2, 3, 4], [0.5, -1, 2, 0], [-3, 1, 0, 2]], np.float32)


def net(number: int) -> Any:
    import torch

    torch.manual_seed(number)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(),
        torch.nn.Linear(8, 3),
    )  # fmt: skip


def answer(module: Any, batch: Any) -> Any:
    import torch

    was_training = module.training
    with torch.inference_mode():
        found = module.eval()(torch.from_numpy(batch)).numpy()
    module.train(was_training)
    return found


def script(number: int, folder: Path) -> Any:
    import torch

    return torch.jit.script(net(number).eval())


def script_file(number: int, folder: Path) -> Path:
    path = folder / "net.pt"
    script(number, folder).save(str(path))
    return path


def script_file_answer(path: Path, batch: Any) -> Any:
    import torch

    return answer(torch.jit.load(str(path)), batch)


def program(number: int, folder: Path) -> Any:
    import torch

    batch = torch.export.Dim("batch", max=1024)
    example = (torch.from_numpy(ROWS),)
    return torch.export.export(net(number).eval(), example, dynamic_shapes=({0: batch},))


def program_file(number: int, folder: Path) -> Path:
    import torch

    path = folder / "net.pt2"
    torch.export.save(program(number, folder), str(path))
    return path


def program_answer(exported: Any, batch: Any) -> Any:
    import torch

    with torch.inference_mode():
        return exported.module()(torch.from_numpy(batch)).numpy()


def program_file_answer(path: Path, batch: Any) -> Any:
    import torch

    return program_answer(torch.export.load(str(path)), batch)


CASES = [
    Case(
        "torch-module", lambda number, folder: net(number), lambda: ROWS, answer,
        needs=["torch"], module="torch",
    ),
    Case(
        "torch-script", script, lambda: ROWS, answer, needs=["torch"], module="torch",
        needs_same_python=False,
    ),
    Case(
        "torch-script-file", script_file, lambda: ROWS, script_file_answer, needs=["torch"],
        module="torch", needs_same_python=False,
    ),
    Case(
        "torch-export", program, lambda: ROWS, program_answer, needs=["torch"], module="torch",
        needs_same_python=False,
    ),
    Case(
        "torch-export-file", program_file, lambda: ROWS, program_file_answer, needs=["torch"],
        module="torch", needs_same_python=False,
    ),
]  # fmt: skip

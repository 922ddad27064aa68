"""What the contract suite of the formats runs on.

A format joins the suite by a file `cases/<format>.py` with a list `CASES` of `Case`. Each case passes
all tests of `test_contract.py`, in about three starts of a replica. Frameworks are imported inside of
functions, because the file itself is read where they are not installed. A library that the cases need
belongs in `requirements.txt`; `make formats-lock` pins it.
"""

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Case:
    """A model of a format, and what the library itself answers."""

    name: str
    make: Callable[[int, Path], Any]
    """Returns what is deployed: for number 0 the model, for number 1 one with other weights. Files go
    below the path, which is an existing directory."""
    example: Callable[[], Any]
    """Returns at least three rows: an array, a dictionary of arrays by name, or a data frame."""
    predict: Callable[[Any, Any], Any]
    """Returns the library's own prediction for what `make` returned and a batch of rows: an array, a
    dictionary of arrays by output, or a data frame."""
    rows: Callable[[], Any] | None = None
    """Returns the rows of queries; None for the example."""
    needs: Sequence[str] = ()
    """Modules without which the case is skipped."""
    programs: Sequence[str] = ()
    """Programs without which the case is skipped."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `deploy` beyond model, name, version and example."""
    needs_same_python: bool = True
    """False if another minor version of Python loads the model too."""
    module: str = ""
    """Module of the library, whose lack is an error with the name of its package; empty for none."""
    tolerance: float = 1e-6
    bad: Sequence[Any] = ()
    """Single inputs that are refused beside those that are made from the example."""
    timeout_s: float = 60.0
    """Longest time of a start."""

    finish: Callable[[], object] = lambda: None
    """Ends what `make` started in this process."""

    def batch(self) -> Any:
        """Return the rows of queries."""
        return (self.rows or self.example)()

    def missing(self) -> str:
        """Return what is not installed, or an empty text."""
        lacking = [name for name in self.needs if importlib.util.find_spec(name) is None]
        lacking += [name for name in self.programs if shutil.which(name) is None]
        return f"not installed: {', '.join(lacking)}" if lacking else ""


def rows_of(batch: Any) -> list[Any]:
    """Return the rows of a batch as single inputs."""
    if isinstance(batch, Mapping):
        (size,) = {len(values) for values in batch.values()}
        return [{name: values[row] for name, values in batch.items()} for row in range(size)]
    if hasattr(batch, "columns"):
        return batch.to_dict("records")
    return list(batch)


def columns_of(result: Any) -> dict[str, np.ndarray]:
    """Return the outputs of a prediction by name, as Skysail names them."""
    if hasattr(result, "columns"):
        return {str(name): np.asarray(result[name]) for name in result.columns}
    if isinstance(result, Mapping):
        return {name: np.asarray(values) for name, values in result.items()}
    if isinstance(result, tuple):
        return {f"output{index}": np.asarray(values) for index, values in enumerate(result)}
    return {"output": np.asarray(result)}

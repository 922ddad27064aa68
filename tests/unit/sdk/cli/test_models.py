from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from skysail.cli import models
from skysail.cli.main import cli
from skysail_common.tensors import DataType, Signature, TensorSpec

COLUMNS = tuple(TensorSpec(f"column_{index}", DataType.FP64, (-1,)) for index in range(13))
OUTPUTS = tuple(TensorSpec(f"output{index}", DataType.FP64, (-1, 8)) for index in range(13))


@pytest.fixture
def client(monkeypatch) -> None:
    wide = Signature(COLUMNS, OUTPUTS, "pandas")
    narrow = Signature(COLUMNS[:1], OUTPUTS[:1])
    versions = [
        SimpleNamespace(version=name, signature=signature, deployment=None, package_differences=())
        for name, signature in (("1", wide), ("2", narrow))
    ]
    model = SimpleNamespace(name="m", versions=versions, current_version="1")
    client = SimpleNamespace(models=lambda: [model], describe_model=lambda name: model)

    @contextmanager
    def open_client(endpoint):
        yield client

    monkeypatch.setattr(models, "open_client", open_client)


@pytest.mark.usefixtures("client")
def test_a_list_counts_many_columns_which_one_model_names():
    wide, narrow = CliRunner().invoke(cli, ["models"]).output.splitlines()[1:]
    assert "a data frame of pandas with 13 columns" in wide
    assert "13 outputs" in wide
    assert "column_0 FP64 [-1]" in narrow
    assert len(wide) < 120
    shown = CliRunner().invoke(cli, ["models", "m"]).output
    assert "column_12 FP64" in shown
    assert "output12 FP64 [-1, 8]" in shown

"""A function of a package that only its replicas have: they learn its outputs."""

from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail import errors
from skysail_testing.container_managers import make_wheel

ROW = np.ones((1, 2))


def triple(x):
    import skysail_no_such_package

    return {"times": x * skysail_no_such_package.FACTOR, "rows": np.arange(len(x))}


def from_the_process(x):
    import skysail_no_such_package

    return skysail_no_such_package.answer(x)


for each in (triple, from_the_process):
    each.__module__ = "__main__"


def test_the_first_replica_learns_the_outputs(client: skysail.Client, tmp_path: Path):
    wheel = make_wheel(tmp_path, "skysail_no_such_package", "FACTOR = 3")
    events = []
    found = client.deploy(
        triple, name="triple", example=ROW, pkgs_to_install=[str(wheel)], num_replicas=2,
        application="triples", slo_ms=9000, on_event=events.append,
    )  # fmt: skip
    assert [
        f"{spec.name} {spec.datatype.name} {spec.shape}" for spec in found.signature.outputs
    ] == [
        "times FP64 (-1, 2)",
        "rows INT64 (-1,)",
    ]
    assert any("the first replica learns" in event.message for event in events)
    answer = client.predict("triples", [1.0, 2.0]).outputs
    assert answer["times"].tolist() == [3.0, 6.0]
    # A replica that starts later learns the same.
    client.scale("triple", 1)
    assert client.scale("triple", 2).num_ready == 2
    client.unregister_application("triples")
    client.undeploy("triple", force=True)


def test_replicas_that_learn_different_outputs_do_not_serve_together(client, tmp_path: Path):
    source = (
        "import os\n"
        "def answer(x):\n"
        f"    try:\n        os.mkdir({str(tmp_path / 'first')!r})\n"
        "    except FileExistsError:\n        return x.astype('int64')\n"
        "    return x\n"
    )
    wheel = make_wheel(tmp_path, "skysail_no_such_package", source)
    with pytest.raises(errors.DeployFailed, match="every replica must learn the same ones"):
        client.deploy(
            from_the_process, name="differs", example=ROW, pkgs_to_install=[str(wheel)],
            num_replicas=2, warm_up=False,
        )  # fmt: skip
    assert "differs" not in [model.name for model in client.models()]

"""One contract for every format: deploy, answer, refuse, restart, deploy again, update."""

import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.utils import canonicalize_name

import skysail
from formats import unpacked
from formats.case import columns_of, rows_of
from formats.conftest import Deployed
from skysail.artifact.distributions import needed_packages
from skysail_model_server.model_loader import LoadFailed
from skysail_testing.clusters import RunningCluster
from skysail_testing.processes import eventually
from skysail_testing.traffic import traffic


def check_answers(deployed: Deployed, model: object, predictions: list[skysail.Prediction]) -> None:
    case = deployed.case
    expected = columns_of(case.predict(model, case.batch()))
    for prediction in predictions:
        assert prediction.outcome == "OK", prediction.explanation
    for name, values in expected.items():
        got = np.asarray([prediction.outputs[name] for prediction in predictions])
        assert got.shape == values.shape, name
        if values.dtype.kind in "OSU":
            assert got.tolist() == [str(each) for each in values.tolist()], name
        else:
            np.testing.assert_allclose(got, values, rtol=case.tolerance, atol=case.tolerance)
    assert set(predictions[0].outputs) == set(expected)


def replica_pids(cluster: RunningCluster, deployed: Deployed, version: str) -> set[int]:
    found = deployed.client.describe_version(deployed.name, version)
    return {
        cluster.replica_pid(replica.container_id)
        for replica in found.replicas
        if replica.state == "READY"
    }


def test_the_answer_is_that_of_the_library(deployed: Deployed):
    rows = rows_of(deployed.case.batch())
    singly = [deployed.client.predict(deployed.name, row) for row in rows]
    check_answers(deployed, deployed.model, singly)


def test_a_batch_is_answered_in_order(deployed: Deployed):
    rows = rows_of(deployed.case.batch())
    predictions = deployed.client.predict_batch(deployed.name, rows * 10, timeout_s=60)
    for begin in range(0, len(predictions), len(rows)):
        check_answers(deployed, deployed.model, predictions[begin : begin + len(rows)])


def bad_inputs(deployed: Deployed):
    """Yield single inputs with a wrong datatype, shape or name, made from a good one."""
    good = rows_of(deployed.case.batch())[0]
    inputs = deployed.version.signature.inputs
    named = good if isinstance(good, dict) else {inputs[0].name: good}
    for spec in inputs:
        if spec.name not in named:
            # A mask of missing values is an input that a query may leave out.
            continue
        if spec.datatype.name != "BYTES":
            yield {**named, spec.name: np.full(np.shape(named[spec.name]), "text", object)}
        if -1 not in spec.shape[1:]:
            value = np.asarray(named[spec.name])
            yield {**named, spec.name: np.stack([value, value, value])}
        yield {name: value for name, value in named.items() if name != spec.name} | {"nope": 1.0}
    yield from deployed.case.bad


def test_bad_input_is_refused_and_the_replica_stays(deployed: Deployed, cluster: RunningCluster):
    before = replica_pids(cluster, deployed, "1")
    for value in bad_inputs(deployed):
        with pytest.raises(skysail.SkysailError) as caught:
            deployed.client.predict(deployed.name, value)
        assert isinstance(caught.value, skysail.errors.InvalidInput), (value, caught.value)
        names = [*(spec.name for spec in deployed.version.signature.inputs), "nope"]
        assert any(repr(name) in str(caught.value) for name in names), caught.value
    row = rows_of(deployed.case.batch())[0]
    assert deployed.client.predict(deployed.name, row).outcome == "OK"
    assert replica_pids(cluster, deployed, "1") == before


def test_the_same_model_again_is_the_same_version(deployed: Deployed, cluster: RunningCluster):
    before = replica_pids(cluster, deployed, "1")
    again = deployed.deploy(deployed.model, "1")
    assert again.artifact_sha256 == deployed.version.artifact_sha256
    assert replica_pids(cluster, deployed, "1") == before


def test_another_python_loads_what_it_can(deployed: Deployed, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    major, minor, patch = platform.python_version_tuple()
    artifact = deployed.artifact
    unpacked.write(artifact, tmp_path, python_version=f"{major}.{minor}.{int(patch) + 1}")
    assert unpacked.load(tmp_path)
    unpacked.write_manifest(artifact.manifest, tmp_path, python_version=f"{major}.99.0")
    if deployed.case.needs_same_python:
        with pytest.raises(LoadFailed, match=rf"{major}\.99\.0"):
            unpacked.load(tmp_path)
    else:
        assert unpacked.load(tmp_path)


def test_a_missing_package_is_named(deployed: Deployed, tmp_path):
    module = deployed.case.module
    if not module:
        pytest.skip("the model needs no package")
    # Several packages may have parts of the module.
    packages = set(map(canonicalize_name, needed_packages({module}).versions))
    assert packages & set(map(canonicalize_name, deployed.artifact.manifest.packages))
    unpacked.write(deployed.artifact, tmp_path)
    shown = subprocess.run(
        [sys.executable, "-m", "formats.unpacked", tmp_path, module, *packages],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert f"No module named {module!r}" in shown.stdout, shown.stdout
    hint = rf"not installed here: .*\b({'|'.join(packages)})==.*; add (it|them) to pkgs_to_install"
    assert re.search(hint, shown.stdout), shown.stdout


def test_a_killed_replica_comes_back(deployed: Deployed, cluster: RunningCluster):
    before = replica_pids(cluster, deployed, "1")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: (now := replica_pids(cluster, deployed, "1")) and not now & before,
        deployed.case.timeout_s,
        "the replica is back",
    )
    test_the_answer_is_that_of_the_library(deployed)


def test_other_weights_lose_no_query(deployed: Deployed, cluster: RunningCluster):
    (deployed.directory / "other").mkdir()
    other = deployed.case.make(1, deployed.directory / "other")
    row = rows_of(deployed.case.batch())[0]
    with traffic(deployed.client, deployed.name, row, callers=2, pause_s=0.02) as seen:
        version = deployed.deploy(other, "2", promote=True)
        seen.wait_for_more(10)
    assert version.artifact_sha256 != deployed.version.artifact_sha256
    assert set(seen.outcomes) == {"OK"}, seen.problems[:3]
    assert set(seen.versions) == {"1", "2"}
    rows = rows_of(deployed.case.batch())
    check_answers(deployed, other, deployed.client.predict_batch(deployed.name, rows))

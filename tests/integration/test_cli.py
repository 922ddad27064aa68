"""The command line, as a person uses it."""

import json
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from time import monotonic

import pytest

from skysail_testing.clusters import RunningCluster
from skysail_testing.commands import skysail_command, skysail_in_process

MODEL = """
    import numpy as np

    def triple(x):
        return x * 3

    def negate(x):
        return -x

    def broken(x):
        return parse(x)

    def parse(x):
        return int("one")

    example = np.ones((1, 2))
    examples = [np.ones((1, 2)), np.ones((1, 3))]

    def single(inputs):
        return inputs.upper()
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("m")
    (directory / "climodel.py").write_text(textwrap.dedent(MODEL))
    return directory


@pytest.fixture(scope="module")
def run(cluster: RunningCluster, model_dir: Path):
    """The command line in this process, as in the directory of the models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKYSAIL_ENDPOINT", cluster.management)
        # Of commands in processes of their own.
        patch.setenv("PYTHONPATH", str(model_dir))
        patch.syspath_prepend(str(model_dir))
        yield skysail_in_process
    sys.modules.pop("climodel", None)


@pytest.fixture(scope="module")
def deployed(run) -> None:
    for version, function in (("1", "triple"), ("2", "negate")):
        done = run(
            "deploy", f"climodel:{function}", "--name", "cli", "--version", version,
            "--example", "climodel:example", *(["--no-promote"] if version == "2" else []),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"cli:{version} has 1 ready replica(s)" in done.stdout


def test_a_process_ends_with_the_status_and_writes_where_it_should(run, deployed):
    done = skysail_command("predict", "cli", "[1, 2]", "--output", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["outputs"] == {"output": [3.0, 6.0]}
    for arguments, status, message in (ERRORS[0], ERRORS[2]):
        done = skysail_command(*arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert message in done.stderr


def test_predict(run, deployed):
    done = run("predict", "cli", "[1, 2]", "--output", "json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["outputs"] == {"output": [3.0, 6.0]}
    assert answer["outcome"] == "OK"
    assert "-1.0, -2.0" in run("predict", "cli:2", "[1, 2]").stdout


def test_a_function_that_fails_is_told_with_the_lines_of_the_user(run, model_dir):
    done = run(
        "deploy", "climodel:broken", "--name", "a", "--version", "1",
        "--example", "climodel:example",
    )  # fmt: skip
    assert done.returncode == 1
    file = model_dir / "climodel.py"
    assert done.stderr.splitlines() == [
        "skysail: the function failed on the example: ValueError: invalid literal for int() with "
        "base 10: 'one'",
        f'  File "{file}", line 11, in broken',
        "    return parse(x)",
        f'  File "{file}", line 14, in parse',
        '    return int("one")',
    ]


def test_several_examples_and_no_checks(run):
    done = run("deploy", "climodel:triple", "--name", "sizes", "--examples", "climodel:examples")
    assert done.returncode == 0, done.stderr
    assert json.loads(run("predict", "sizes", "[1, 2, 3, 4]", "-o", "json").stdout)["outputs"] == {
        "output": [3.0, 6.0, 9.0, 12.0]
    }
    single = ("deploy", "climodel:single", "--name", "single", "--input-type", "strings")
    assert "deploy it with check=False" in run(*single).stderr
    assert run(*single, "--no-check").returncode == 0


def test_promote_and_rollback(run, deployed):
    assert run("promote", "cli:2").stdout == "cli:2 is the current version (before: 1)\n"
    assert run("rollback", "cli").stdout == "cli:1 is the current version\n"
    done = run("rollback", "cli")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "skysail: cannot roll back model 'cli': it has no previous version; promote another version "
        "with 'skysail promote cli:VERSION'\n"
    )


def test_scale_and_logs(run, deployed):
    assert run("scale", "cli", "2").stdout == "cli:1 has 2 of 2 replica(s) ready\n"
    log = run("logs", "cli", "--tail", "5").stdout
    assert "cli:1/0  " in log
    assert "cli:1/1  " in log
    assert run("scale", "cli", "1").returncode == 0


def test_bounds_of_the_replicas(run, deployed):
    done = run("scale", "cli", "--max", "2")
    assert done.stdout == "cli:1 has 1 to 2 replicas, depending on its load\n"
    assert "1 of 1 (1 to 2)" in run("models").stdout
    assert "current, 1 to 2" in run("status").stdout
    assert run("scale", "cli", "1").returncode == 0
    assert "1 to 2" not in run("models").stdout + run("status").stdout


def test_applications(run, deployed):
    registered = run("apps", "register", "cli-app", "--slo-ms", "5000", "--default-output", "-1")
    assert registered.returncode == 0, registered.stderr
    assert run("apps", "link", "cli-app", "cli:1=90", "cli:2=10").returncode == 0
    listed = json.loads(run("apps", "--output", "json").stdout)
    (application,) = [each for each in listed if each["name"] == "cli-app"]
    assert application["default_output"] == -1
    assert application["routes"] == [
        {"model": "cli", "version": "1", "weight": 90.0},
        {"model": "cli", "version": "2", "weight": 10.0},
    ]
    assert "cli-app" in run("apps").stdout
    assert run("apps", "update", "cli-app", "--no-default-output").returncode == 0
    assert run("apps", "register", "cli-app", "--default-output", "-1").stderr == (
        "skysail: application 'cli-app' is registered with other values; change it with 'skysail "
        "apps update cli-app' or client.update_application\n"
    )
    assert run("apps", "unlink", "cli-app").stdout == "application cli-app is routed to nothing\n"
    (application,) = [
        each for each in json.loads(run("apps", "-o", "json").stdout) if each["name"] == "cli-app"
    ]
    assert application["routes"] == []
    assert run("apps", "unregister", "cli-app").returncode == 0


def test_status_and_models(run, deployed):
    status = run("status").stdout
    assert "cli:1/0" in status
    assert "READY" in status
    table = run("models").stdout
    assert "x FP64 [-1, 2]" in table
    found = json.loads(run("models", "-o", "json").stdout)
    assert "cli" in [each["name"] for each in found]


def test_tune(run, deployed):
    flags = ["--policy", "fixed", "--max-batch-size", "32", "--max-queue-delay-ms", "5"]
    done = run("tune", "cli", *flags, "--preferred-batch-size", "8", "--preferred-batch-size", "4")
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    for name, value in (
        ("policy", "fixed"),
        ("max_batch_size", "32"),
        ("max_queue_delay_s", "0.005"),
    ):
        assert re.search(rf"{name}\s+{value}\b", shown), shown
    assert re.search(r"preferred_batch_sizes\s+4, 8", shown), shown
    # What is not given stays as it is.
    shown = run("tune", "cli", "--cache-ttl-s", "60", "--max-queue-size", "99").stdout
    for name, value in (("policy", "fixed"), ("max_batch_size", "32"), ("cache_ttl_s", "60")):
        assert re.search(rf"{name}\s+{value}\b", shown), shown
    shown = run("tune", "cli", "--default", "max-queue-delay", "--default", "policy").stdout
    for name, value in (("policy", "hybrid"), ("max_queue_delay_s", "chosen by the policy")):
        assert re.search(rf"{name}\s+{value}\b", shown), shown
    assert json.loads(run("predict", "cli", "[1, 2]", "-o", "json").stdout)["outcome"] == "OK"


def test_undeploy_and_start(run, deployed):
    done = run("undeploy", "cli:2")
    assert done.stdout == "cli:2 is no longer deployed\n"
    assert run("undeploy", "cli:2").stderr == ("skysail: model 'cli:2' is not deployed\n")
    assert run("start", "cli:2").stdout == (
        "cli:2 has 1 ready replica(s); it is NOT the current version: 'skysail promote cli:2' makes "
        "it current\n"
    )
    # Nobody is there to be asked.
    done = run("undeploy", "cli")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'cli:1' is the current version; promote another version first, or use force" in (
        done.stderr
    )
    assert run("undeploy", "cli", "--yes").stdout == "cli:1 is no longer deployed\n"
    assert run("start", "cli").stdout == "cli:1 has 1 ready replica(s) and is the current version\n"


def test_a_deployment_without_a_version(run):
    deploy = ("deploy", "climodel:triple", "--name", "auto", "--example", "climodel:example")
    for _ in range(2):
        done = run(*deploy)
        assert done.stdout == "auto:1 has 1 ready replica(s) and is the current version\n"


ERRORS = [
    (["predict", "nope", "[1]"], 1, "no application and no deployed model is called 'nope'"),
    (["predict", "cli", "{"], 1, "cannot read the input: it is not JSON"),
    (["predict", "cli"], 2, "give the input"),
    (["deploy", "climodel", "--name", "a", "--version", "1"], 1, "the form module:name"),
    (["deploy", "climodel:no", "--name", "a", "--version", "1"], 1, "has no 'no'"),
    (["deploy", "nomodule:f", "--name", "a", "--version", "1"], 1, "cannot be imported"),
    (["deploy", "climodel:triple", "--name", "a", "--version", "1"], 1, "give exactly one"),
    (
        [
            "deploy",
            "climodel:triple",
            "--name",
            "a",
            "--version",
            "1",
            "--gpus",
            "1",
            "--example",
            "climodel:example",
        ],
        1,
        "cannot reserve a GPU",
    ),
    (["nope"], 2, "No such command"),
    (["scale", "cli", "-1"], 2, "-1 is not in the range x>=0"),
    (["start", "cli:9"], 1, "'cli:9' is not registered"),
    (["apps", "update", "nope"], 1, "'nope' is not registered"),
    (
        ["scale", "cli", "--min", "3", "--max", "2"],
        1,
        "max_replicas from there to 1000; got 3 and 2",
    ),
    (["tune", "nope", "--max-batch-size", "2"], 1, "'nope' is not registered"),
    (["tune", "cli", "--policy", "magic"], 2, "'magic' is not one of"),
    (["tune", "cli", "--preferred-batch-size", "99"], 1, "preferred_batch_sizes"),
]


@pytest.mark.parametrize(
    ("arguments", "status", "message"), ERRORS, ids=[" ".join(each[0]) for each in ERRORS]
)
def test_errors_are_one_line_and_a_status(run, deployed, arguments, status, message):
    done = run(*arguments)
    assert done.returncode == status
    assert done.stdout == ""
    assert message in done.stderr
    if status == 1:
        assert len(done.stderr.strip().splitlines()) == 1


def test_models_of_one_name(run, deployed):
    listed = run("models", "cli").stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["cli", "1"], ["cli", "2"]]
    assert json.loads(run("models", "cli", "-o", "json").stdout)[0]["name"] == "cli"
    done = run("models", "nope")
    assert (done.returncode, done.stderr) == (1, "skysail: model 'nope' is not registered\n")


def test_a_version_is_deleted_once_it_is_not_deployed(run, deployed):
    deploy = ["deploy", "climodel:triple", "--example", "climodel:example"]
    assert run(*deploy, "--name", "deleted", "--version", "1").returncode == 0
    done = run("delete", "deleted:1")
    assert (done.returncode, "undeploy" in done.stderr) == (1, True)
    assert run("undeploy", "deleted", "--yes").returncode == 0
    assert run("delete", "deleted").stdout == "deleted is removed\n"
    assert run("models", "deleted").returncode == 1


def test_the_query_endpoint_is_an_option_and_a_variable(run, deployed, cluster, monkeypatch):
    assert run("predict", "cli", "[1, 2]", "--query-endpoint", cluster.grpc).returncode == 0
    refused = run("predict", "cli", "[1, 2]", "--query-endpoint", "127.0.0.1:1")
    assert refused.returncode == 1
    assert "--query-endpoint or SKYSAIL_QUERY_ENDPOINT" in refused.stderr
    monkeypatch.setenv("SKYSAIL_QUERY_ENDPOINT", "127.0.0.1:1")
    assert run("predict", "cli", "[1, 2]").returncode == 1
    assert run("predict", "cli", "[1, 2]", "--query-endpoint", cluster.grpc).returncode == 0


def test_status_says_which_transport_runs(run, cluster):
    line = next(each for each in run("status").stdout.splitlines() if "transport" in each)
    assert line.split()[1].rstrip(";") in ("native", "grpc")
    (frontend,) = json.loads(run("status", "-o", "json").stdout)["frontends"]
    assert frontend["transport"] in ("native", "grpc")


def test_an_interrupted_deploy_says_what_goes_on(run, model_dir):
    (model_dir / "slowmodel.py").write_text(
        textwrap.dedent("""
            class Slow:
                def __getstate__(self):
                    return {"slow": True}

                def __setstate__(self, state):
                    import time

                    time.sleep(30)

                def __call__(self, x):
                    return x

            slow = Slow()
            example = [[1.0]]
        """)
    )
    command = [sys.executable, "-m", "skysail", "deploy", "slowmodel:slow", "--name", "slow"]
    process = subprocess.Popen(
        [*command, "--version", "3", "--example", "slowmodel:example"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = monotonic() + 30
    while run("models", "slow").returncode and monotonic() < end:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, "")
    assert errors.strip() == (
        "skysail: the deployment of slow:3 goes on in the cluster; to stop it: "
        "skysail undeploy slow:3"
    )
    assert run("undeploy", "slow:3", "--yes").returncode == 0

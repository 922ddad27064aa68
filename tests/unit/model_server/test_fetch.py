import pytest

from skysail_common.states import ExitCode
from skysail_model_server import fetch

FLAGS = ["--replica-id", "m:1/0", "--token", "t"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "skysail-model-server-fetch: --replica-id: field required\n"),
        (
            [*FLAGS, "--wrong", "1"],
            "skysail-model-server-fetch: unrecognized arguments: --wrong 1\n",
        ),
        (
            [*FLAGS, "--management-endpoint", "management:8006"],
            "cannot fetch the artifact: artifact-dir or management-endpoint is missing; set both\n",
        ),
        (
            [*FLAGS, "--artifact-dir", "/nowhere/artifact"],
            "cannot fetch the artifact: artifact-dir or management-endpoint is missing; set both\n",
        ),
    ],
)
def test_a_missing_setting_is_reported_before_any_fetch(
    arguments: list[str], told: str, monkeypatch, capsys
):
    monkeypatch.setattr(fetch, "configure_log", lambda *arguments: None)
    monkeypatch.setattr(fetch, "download_artifact", None)
    assert fetch.main(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err == told

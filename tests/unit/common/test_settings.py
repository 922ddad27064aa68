import json
from pathlib import Path

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from skysail_common.errors import InvalidInput
from skysail_common.process.settings import (
    Port,
    ServiceSettings,
    describe_settings,
    read_settings,
    unknown_variables,
)
from skysail_frontend.settings import FrontendSettings
from skysail_management.settings import ManagementSettings
from skysail_model_server.settings import ModelServerSettings


class ExampleSettings(ServiceSettings):
    """Settings of an example."""

    model_config = SettingsConfigDict(env_prefix="SKYSAIL_EXAMPLE_")

    http_port: Port = 8000
    """Port of the HTTP service."""

    drain_timeout_s: float = Field(10.0, ge=0)
    """Longest time to answer what is under way."""

    work_dir: Path | None = None
    """Directory to work in."""

    token: SecretStr = SecretStr("default secret")
    """Proves who it is."""

    watch_parent: bool = False
    """Stop when the parent is gone."""


class NeedySettings(ServiceSettings):
    """Settings with one that has no default."""

    model_config = SettingsConfigDict(env_prefix="SKYSAIL_NEEDY_")

    data_dir: Path
    """Directory for data."""


def read(*arguments: str) -> ExampleSettings:
    return read_settings(ExampleSettings, "skysail-example", arguments)


def refusal(*arguments: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(*arguments)
    return caught.value.message


def test_defaults_hold_where_nothing_else_is_said():
    settings = read()
    assert settings.http_port == 8000
    assert settings.log_level == "info"
    assert settings.log_format == "console"
    assert settings.work_dir is None
    assert not settings.watch_parent


def test_the_environment_is_over_the_defaults_and_flags_are_over_both(monkeypatch):
    monkeypatch.setenv("SKYSAIL_EXAMPLE_HTTP_PORT", "1")
    monkeypatch.setenv("SKYSAIL_EXAMPLE_DRAIN_TIMEOUT_S", "0.5")
    monkeypatch.setenv("HTTP_PORT", "3")
    settings = read("--http-port", "2")
    assert (settings.http_port, settings.drain_timeout_s) == (2, 0.5)
    assert read().http_port == 1


def test_the_last_of_a_repeated_flag_holds():
    assert read("--http-port", "1", "--http-port=2").http_port == 2


def test_values_are_of_the_types_of_their_fields():
    settings = read("--work-dir", "/srv/x", "--token", "t", "--watch-parent", "--log-level=debug")
    assert settings.work_dir == Path("/srv/x")
    assert settings.token.get_secret_value() == "t"
    assert settings.watch_parent
    assert settings.log_level == "debug"
    assert not read("--no-watch-parent").watch_parent


def test_the_process_s_own_arguments_are_not_read(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest", "--http-port", "9", "--unknown"])
    assert read().http_port == 8000


@pytest.mark.parametrize(
    "arguments", [["--nope", "1"], ["--nope"], ["stray"], ["--http_port", "1"]]
)
def test_an_unknown_flag_is_named(arguments):
    assert refusal(*arguments) == (
        f"skysail-example: unrecognized arguments: {' '.join(arguments)}"
    )


def test_a_flag_is_not_known_by_its_beginning():
    assert "--http-p" in refusal("--http-p", "1")


def test_a_flag_without_its_value_is_named():
    message = refusal("--http-port")
    assert message == "skysail-example: argument --http-port: expected one argument"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--http-port", "65536"], "--http-port: input should be less than or equal to 65535"),
        (["--http-port", "-1"], "--http-port: input should be greater than or equal to 0"),
        (["--http-port", "many"], "--http-port: input should be a valid integer"),
        (["--drain-timeout-s", "-0.1"], "--drain-timeout-s: input should be greater than or equal"),
        (["--log-level", "loud"], "--log-level: string should match pattern"),
        (["--log-format", "xml"], "--log-format: string should match pattern"),
    ],
)
def test_a_value_out_of_range_names_its_flag(arguments, message):
    assert refusal(*arguments).startswith(f"skysail-example: {message}")


def test_a_value_of_the_environment_that_is_out_of_range_names_its_variable(monkeypatch):
    monkeypatch.setenv("SKYSAIL_EXAMPLE_HTTP_PORT", "65536")
    message = refusal()
    assert message.startswith("skysail-example: SKYSAIL_EXAMPLE_HTTP_PORT: input should be less")
    assert message.endswith(", got '65536'")
    assert refusal("--http-port=many").startswith("skysail-example: --http-port: ")


def test_a_secret_that_is_refused_is_not_shown(monkeypatch):
    monkeypatch.setenv("SKYSAIL_TEST_SECRET", "hush")

    class SecretiveSettings(ServiceSettings):
        model_config = SettingsConfigDict(env_prefix="SKYSAIL_TEST_")

        secret: SecretStr = Field(SecretStr(""), min_length=9)

    with pytest.raises(InvalidInput) as caught:
        read_settings(SecretiveSettings, "skysail-test", [])
    assert caught.value.message.startswith("skysail-test: SKYSAIL_TEST_SECRET: ")
    assert "hush" not in caught.value.message


def test_a_misspelt_variable_is_told_with_what_is_meant(monkeypatch):
    monkeypatch.setenv("SKYSAIL_EXAMPLE_HTTP_PROT", "1")
    monkeypatch.setenv("SKYSAIL_EXAMPLE_NONSENSE", "1")
    monkeypatch.setenv("SKYSAIL_EXAMPLE_WORK_DIR", "/srv")
    # As Kubernetes makes them.
    monkeypatch.setenv("SKYSAIL_EXAMPLE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SKYSAIL_EXAMPLE_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("SKYSAIL_EXAMPLE_PORT_80_TCP_ADDR", "10.0.0.1")
    assert unknown_variables(ExampleSettings) == [
        "unknown setting SKYSAIL_EXAMPLE_HTTP_PROT ignored; did you mean SKYSAIL_EXAMPLE_HTTP_PORT?",
        "unknown setting SKYSAIL_EXAMPLE_NONSENSE ignored",
    ]


def test_a_setting_without_a_default_must_be_given(tmp_path):
    with pytest.raises(InvalidInput) as caught:
        read_settings(NeedySettings, "skysail-needy", [])
    assert caught.value.message == "skysail-needy: --data-dir: field required"
    given = read_settings(NeedySettings, "skysail-needy", ["--data-dir", str(tmp_path)])
    assert given.data_dir == tmp_path


def test_help_shows_each_setting_and_ends(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code in (0, None)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("usage: skysail-example ")
    for words in (
        "--http-port int Port of the HTTP service. (default: 8000)",
        "--drain-timeout-s float Longest time to answer what is under way. (default: 10.0)",
        "--log-level str Least severe events to log",
    ):
        assert words in shown
    assert "default secret" not in shown


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        read().http_port = 1


def test_a_description_shows_what_is_in_effect_but_no_secret():
    text = describe_settings(read("--http-port", "7", "--token", "hush", "--work-dir", "/srv"))
    assert "hush" not in text
    assert json.loads(text) == {
        "log_level": "info",
        "log_format": "console",
        "http_port": 7,
        "drain_timeout_s": 10.0,
        "work_dir": "/srv",
        "token": "**********",
        "watch_parent": False,
    }


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        (FrontendSettings, []),
        (ManagementSettings, ["--data-dir", "/srv/skysail"]),
        (
            ModelServerSettings,
            ["--management-endpoint", "m:1", "--replica-id", "sum:3/0", "--token", "hush"],
        ),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_every_service_starts_with_what_it_needs_alone(settings, needed):
    described = json.loads(describe_settings(read_settings(settings, "skysail-x", needed)))
    assert described.keys() == settings.model_fields.keys()
    assert "hush" not in described.values()


def test_what_concerns_several_settings_is_told_without_naming_one():
    with pytest.raises(InvalidInput) as caught:
        read_settings(ModelServerSettings, "skysail-x", ["--replica-id", "sum:3/0"])
    assert caught.value.message == (
        "skysail-x: set artifact-file, or both management-endpoint and token"
    )
    arguments = ["--replica-id", "sum:3/0", "--artifact-file", "a.zip"]
    assert read_settings(ModelServerSettings, "skysail-x", arguments).artifact_file


def test_management_takes_the_store_by_the_name_that_all_share(monkeypatch):
    monkeypatch.setenv("SKYSAIL_REDIS_URL", "redis://:hush@elsewhere:1/2")
    settings = read_settings(ManagementSettings, "skysail-management", ["--data-dir", "/srv"])
    assert settings.redis_url.get_secret_value() == "redis://:hush@elsewhere:1/2"
    assert "hush" not in describe_settings(settings)


def test_replicas_inherit_the_environment_without_our_settings(monkeypatch):
    monkeypatch.setenv("SKYSAIL_MANAGEMENT_PORT", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    # One for the whole cluster.
    monkeypatch.setenv("SKYSAIL_TRANSPORT", "grpc")
    settings = read_settings(ManagementSettings, "skysail-management", ["--data-dir", "/srv"])
    inherited = settings.replica_variables()
    assert inherited["OMP_NUM_THREADS"] == "2"
    assert [name for name in inherited if name.startswith("SKYSAIL_")] == ["SKYSAIL_TRANSPORT"]

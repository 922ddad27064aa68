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
    """Longest time to answer queries in flight."""

    work_dir: Path | None = None
    """Directory to work in."""

    token: SecretStr = SecretStr("default secret")
    """Token of the service."""

    watch_parent: bool = False
    """Stop when the parent has ended."""


class NeedySettings(ServiceSettings):
    """Settings with a required field."""

    model_config = SettingsConfigDict(env_prefix="SKYSAIL_NEEDY_")

    data_dir: Path
    """Directory for data."""


def read(*arguments: str) -> ExampleSettings:
    return read_settings(ExampleSettings, "skysail-example", arguments)


def refusal(*arguments: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(*arguments)
    return caught.value.message


def test_defaults_apply_without_flags_and_environment():
    settings = read()
    assert settings.http_port == 8000
    assert settings.log_level == "info"
    assert settings.log_format == "console"
    assert settings.work_dir is None
    assert not settings.watch_parent


def test_flags_override_environment_and_environment_overrides_defaults(monkeypatch):
    monkeypatch.setenv("SKYSAIL_EXAMPLE_HTTP_PORT", "1")
    monkeypatch.setenv("SKYSAIL_EXAMPLE_DRAIN_TIMEOUT_S", "0.5")
    monkeypatch.setenv("HTTP_PORT", "3")
    settings = read("--http-port", "2")
    assert (settings.http_port, settings.drain_timeout_s) == (2, 0.5)
    assert read().http_port == 1


def test_the_last_value_of_a_repeated_flag_wins():
    assert read("--http-port", "1", "--http-port=2").http_port == 2


def test_values_have_the_types_of_their_fields():
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
def test_the_error_names_an_unknown_flag(arguments):
    assert refusal(*arguments) == (
        f"skysail-example: unrecognized arguments: {' '.join(arguments)}"
    )


def test_a_prefix_of_a_flag_is_refused():
    assert "--http-p" in refusal("--http-p", "1")


def test_the_error_names_a_flag_without_a_value():
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


def test_an_error_hides_a_refused_secret(monkeypatch):
    monkeypatch.setenv("SKYSAIL_TEST_SECRET", "hush")

    class SecretiveSettings(ServiceSettings):
        model_config = SettingsConfigDict(env_prefix="SKYSAIL_TEST_")

        secret: SecretStr = Field(SecretStr(""), min_length=9)

    with pytest.raises(InvalidInput) as caught:
        read_settings(SecretiveSettings, "skysail-test", [])
    assert caught.value.message.startswith("skysail-test: SKYSAIL_TEST_SECRET: ")
    assert "hush" not in caught.value.message


def test_the_warning_about_a_misspelt_variable_suggests_a_name(monkeypatch):
    monkeypatch.setenv("SKYSAIL_EXAMPLE_HTTP_PROT", "1")
    monkeypatch.setenv("SKYSAIL_EXAMPLE_NONSENSE", "1")
    monkeypatch.setenv("SKYSAIL_EXAMPLE_WORK_DIR", "/srv")
    # Kubernetes sets such variables.
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


def test_help_shows_each_setting_and_exits(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code in (0, None)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("usage: skysail-example ")
    for words in (
        "--http-port int Port of the HTTP service. (default: 8000)",
        "--drain-timeout-s float Longest time to answer queries in flight. (default: 10.0)",
        "--log-level str Least severe events to log",
    ):
        assert words in shown
    assert "default secret" not in shown


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        read().http_port = 1


def test_a_description_shows_effective_settings_without_secrets():
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
def test_every_service_starts_with_only_its_required_settings(settings, needed):
    described = json.loads(describe_settings(read_settings(settings, "skysail-x", needed)))
    assert described.keys() == settings.model_fields.keys()
    assert "hush" not in described.values()


def test_an_error_about_several_settings_has_no_prefix():
    with pytest.raises(InvalidInput) as caught:
        read_settings(ModelServerSettings, "skysail-x", ["--replica-id", "sum:3/0"])
    assert caught.value.message == (
        "skysail-x: set artifact-dir, or both management-endpoint and token"
    )
    arguments = ["--replica-id", "sum:3/0", "--artifact-dir", "a"]
    assert read_settings(ModelServerSettings, "skysail-x", arguments).artifact_dir


def test_management_reads_the_shared_variable_of_the_store(monkeypatch):
    monkeypatch.setenv("SKYSAIL_REDIS_URL", "redis://:hush@elsewhere:1/2")
    settings = read_settings(ManagementSettings, "skysail-management", ["--data-dir", "/srv"])
    assert settings.redis_url.get_secret_value() == "redis://:hush@elsewhere:1/2"
    assert "hush" not in describe_settings(settings)


def test_replicas_inherit_the_environment_without_settings_of_skysail(monkeypatch):
    monkeypatch.setenv("SKYSAIL_MANAGEMENT_PORT", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    # All processes of a cluster share this variable.
    monkeypatch.setenv("SKYSAIL_TRANSPORT", "grpc")
    settings = read_settings(ManagementSettings, "skysail-management", ["--data-dir", "/srv"])
    inherited = settings.replica_variables()
    assert inherited["OMP_NUM_THREADS"] == "2"
    assert [name for name in inherited if name.startswith("SKYSAIL_")] == ["SKYSAIL_TRANSPORT"]

"""How a service reads its settings: flags over environment over defaults, once, at its start."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from skysail_common.errors import InvalidInput
from skysail_common.sockets import without_brackets

Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose one, which the ready line then tells."""

Host = Annotated[str, AfterValidator(without_brackets)]
"""An address to listen on; one of IPv6 may be in brackets."""


class ServiceSettings(BaseSettings):
    """Settings that every service has.

    A subclass sets `env_prefix` and documents each field by a string under it, which is also its
    `--help` and its line on the settings page.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
    )

    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    """Least severe events to log: debug, info, warning or error."""

    log_format: str = Field("console", pattern="^(console|json)$")
    """`console` for people, `json` for one object a line."""


def check_tls_pair(certificate: Path | None, key: Path | None) -> None:
    """Check that both files of TLS are set, or neither.

    Raises:
        ValueError: one is missing; the message names both flags.
    """
    if (certificate is None) != (key is None):
        given, missing = ("certificate", "key") if certificate else ("key", "certificate")
        raise ValueError(
            f"--tls-{given}-file is given and --tls-{missing}-file is not; give both, or neither "
            "to serve in the clear"
        )


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def read_settings(cls: type[SettingsT], program: str, arguments: Sequence[str]) -> SettingsT:
    """Return the settings that flags and environment give.

    Args:
        cls: Class of the settings.
        program: Name for `--help`.
        arguments: Flags, as of `sys.argv[1:]`.

    Raises:
        InvalidInput: an unknown flag, or a value out of range; the message names it.
        SystemExit: `--help` was asked for.
    """
    try:
        # mypy's plugin for pydantic would know these arguments; it is not worth its cost.
        make: Callable[..., SettingsT] = cls
        return make(
            _cli_parse_args=list(arguments),
            _cli_prog_name=program,
            _cli_exit_on_error=False,
        )
    except SettingsError as error:
        raise InvalidInput(
            f"{program}: {str(error).removeprefix('error parsing CLI: ')}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "-".join(str(part) for part in first["loc"]).replace("_", "-")
        what = first["msg"].removeprefix("Value error, ").lower()
        # Errors about several settings name them in their text.
        raise InvalidInput(
            f"{program}: --{where}: {what}" if where else f"{program}: {what}"
        ) from error


def describe_settings(settings: ServiceSettings) -> str:
    """Return the effective settings as JSON, secrets hidden."""
    return json.dumps(settings.model_dump(mode="json"), indent=2)

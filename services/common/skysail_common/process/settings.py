"""Settings of a service, read once at its start: flags override environment override defaults."""

import difflib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from skysail_common.errors import InvalidInput, shown
from skysail_common.process.sockets import without_brackets

Port = Annotated[int, Field(ge=0, le=65535)]
"""A TCP port; 0 lets the system choose one, which the ready line shows."""

Host = Annotated[str, AfterValidator(without_brackets)]
"""An address to listen on; an IPv6 address may be in brackets."""


# Variables of clients that share the prefix of management.
_OF_CLIENTS = {"SKYSAIL_MANAGEMENT_TOKEN_FILE", "SKYSAIL_MANAGEMENT_TLS_CA_FILE"}

_LINK = re.compile(r"_PORT_\d+_(TCP|UDP)(_|$)")


class ServiceSettings(BaseSettings):
    """Settings of every service.

    A subclass sets `env_prefix` and documents each field by a string under it. The string is also the
    `--help` of the field and its text on the settings page.
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
    """`console` for people, `json` for one object per line."""


def check_tls_pair(certificate: Path | None, key: Path | None) -> None:
    """Check that either both files of TLS are set or none.

    Raises:
        ValueError: one file is missing; the message names both flags.
    """
    if (certificate is None) != (key is None):
        given, missing = ("certificate", "key") if certificate else ("key", "certificate")
        raise ValueError(
            f"--tls-{given}-file is given and --tls-{missing}-file is not; give both, or neither "
            "to serve without TLS"
        )


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def read_settings(cls: type[SettingsT], program: str, arguments: Sequence[str]) -> SettingsT:
    """Return the settings from flags and environment.

    Args:
        cls: Class of the settings.
        program: Name of the program in `--help`.
        arguments: Flags, such as `sys.argv[1:]`.

    Raises:
        InvalidInput: a flag is unknown or a value out of range; the message names it.
        SystemExit: a flag is `--help`.
    """
    try:
        # mypy would know these arguments by a plugin for pydantic, whose cost exceeds its use.
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
        raise InvalidInput(f"{program}: {_mistake(cls, error.errors()[0], arguments)}") from error


def _mistake(cls: type[ServiceSettings], found: Any, arguments: Sequence[str]) -> str:
    """Return the error text for a setting, with the name that the operator used."""
    what = str(found["msg"]).removeprefix("Value error, ").lower()
    if not found["loc"]:
        # The text of an error about several settings contains their names.
        return what
    name = str(found["loc"][0])
    flag = f"--{'-'.join(str(part) for part in found['loc']).replace('_', '-')}"
    variables = {name.upper(), f"{cls.model_config.get('env_prefix', '')}{name}".upper()}
    is_flag = any(word.partition("=")[0] == flag for word in arguments)
    given = [] if is_flag else [each for each in os.environ if each.upper() in variables]
    value = found["input"]
    is_shown = isinstance(value, str) and not _is_secret(cls, name)
    got = f", got {shown(value)!r}" if is_shown else ""
    return f"{given[0] if given else flag}: {what}{got}"


def _is_secret(cls: type[ServiceSettings], name: str) -> bool:
    fields = cls.model_fields.items()
    annotations = [f.annotation for key, f in fields if name in (key, f.validation_alias)]
    return not annotations or any("Secret" in str(each) for each in annotations)


def unknown_variables(cls: type[ServiceSettings]) -> list[str]:
    """Return a warning for each variable with the prefix of a service that is not a setting."""
    prefix = str(cls.model_config.get("env_prefix", ""))
    known = {name.upper() for name in cls.model_fields}
    warnings = []
    for name, value in sorted(os.environ.items()):
        upper = name.upper()
        own = upper.removeprefix(prefix)
        if own == upper or own in known or upper in _OF_CLIENTS:
            continue
        if "://" in value or own.startswith("SERVICE_") or _LINK.search(upper):
            # Kubernetes and Docker set such variables in containers to describe services.
            continue
        close = difflib.get_close_matches(own, known, n=1, cutoff=0.8)
        hint = f"; did you mean {prefix}{close[0]}?" if close else ""
        warnings.append(f"unknown setting {name} ignored{hint}")
    return warnings


def describe_settings(settings: ServiceSettings) -> str:
    """Return the effective settings as JSON, with secrets hidden."""
    return json.dumps(settings.model_dump(mode="json"), indent=2)

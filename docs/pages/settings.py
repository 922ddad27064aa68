"""The page of settings, from the classes of settings."""

import os
from pathlib import Path

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from docs.pages.markdown import GENERATED
from skysail.settings import ClientSettings
from skysail_frontend.settings import FrontendSettings
from skysail_management.settings import ManagementSettings
from skysail_model_server.settings import ModelServerSettings

_SERVICES = (
    ("The SDK and the command line", "", ClientSettings),
    ("Frontend", "python -m skysail_frontend", FrontendSettings),
    ("Management", "python -m skysail_management", ManagementSettings),
    ("Model server", "python -m skysail_model_server", ModelServerSettings),
)


def settings_page() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Flags override environment variables, which override defaults. `--print-settings` prints",
        "the effective settings of a service and hides secrets. SLOs, replicas and routes are no",
        "settings: they are state, which operators change at run time and the store keeps.",
        "",
        "`skysail up` passes its environment to the services that it starts:",
        "`SKYSAIL_FRONTEND_MAX_MESSAGE_MIB=256 skysail up`. Errors and other pages call a setting by",
        "its plain name, such as `max_message_mib`.",
    ]
    for title, command, cls in _SERVICES:
        lines += ["", f"## {title}", ""]
        if command:
            note = "; its container manager sets them" if cls is ModelServerSettings else ""
            lines += [f"`{command}`{note}", ""]
        lines.append(f"| {'flag, variable' if command else 'variable'} | default | meaning |")
        lines.append("|---|---|---|")
        prefix = cls.model_config["env_prefix"]
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            variable = alias if isinstance(alias, str) else f"{prefix}{name}".upper()
            default = _default(field.get_default(call_default_factory=True))
            meaning = " ".join((field.description or "").split())
            flag_name = (alias if isinstance(alias, str) else name).lower().replace("_", "-")
            flag = f"`--{flag_name}`<br>" if command else ""
            lines.append(f"| {flag}`{variable}` | {default} | {meaning} |")
    lines += ["", GENERATED.format("the classes of settings")]
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    value = value.get_secret_value() if isinstance(value, SecretStr) else value
    if value in (None, "", (), {}):
        return "none"
    text = str(value).replace(str(Path.home()), "~")
    # The page must not depend on the environment in which it is written.
    if data_home := os.environ.get("XDG_DATA_HOME"):
        text = text.replace(data_home, "~/.local/share")
    return f"`{text}`"

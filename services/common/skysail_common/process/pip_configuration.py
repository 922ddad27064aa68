"""The configuration of pip as arguments and variables of uv, so that both reach the same indexes.

Sources: pip's documentation, "Configuration"; uv's documentation, "Environment variables" and
"Compatibility with pip".
"""

import configparser
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
"""Names of the variables with proxies, in lower case."""

# Variables of uv that decide what it installs and from where, on any machine.
_UV_SOURCES = (
    "UV_INDEX*", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX",
    "UV_INSECURE_HOST", "UV_KEYRING_PROVIDER", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_HTTP_*",
    "UV_OFFLINE", "UV_CONSTRAINT", "UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER",
    "UV_TORCH_BACKEND",
)  # fmt: skip

_SECTIONS = ("global", "install")

# Options of pip by the variable of uv that replaces them; its values are separated by the character.
_LISTS = {
    "extra-index-url": ("UV_EXTRA_INDEX_URL", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "constraint": ("UV_CONSTRAINT", " "),
}
_VALUES = {
    "index-url": ("UV_INDEX_URL",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "retries": ("UV_HTTP_RETRIES",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY"),
}
_FLAGS = {
    "no-index": ("--no-index",),
    "pre": ("--prerelease", "allow"),
    "no-cache-dir": ("--no-cache",),
    "require-hashes": ("--require-hashes",),
}
# These change what pip prints or asks, or where it keeps its files, but not what it installs.
_WITHOUT_EFFECT = frozenset({
    "break-system-packages", "cache-dir", "config-file", "disable-pip-version-check",
    "exists-action", "format", "log", "no-clean", "no-color", "no-input",
    "no-python-version-warning", "no-warn-conflicts", "no-warn-script-location", "progress-bar",
    "quiet", "require-virtualenv", "resume-retries", "root-user-action", "src", "verbose",
})  # fmt: skip
_TRUE = frozenset({"1", "true", "yes", "on", "t", "y"})

# Options of a requirements file that uv knows too; it only warns of others.
_UV_LINES = frozenset({
    "-r", "--requirement", "-c", "--constraint", "-e", "--editable", "-i", "--index-url",
    "--extra-index-url", "-f", "--find-links", "--no-index", "--no-binary", "--only-binary",
})  # fmt: skip


@dataclass
class UvConfiguration:
    """What uv needs in place of the configuration of pip."""

    arguments: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict, repr=False)
    """Variables, because others see the arguments of a process, and a URL may hold a password."""
    unknown: list[str] = field(default_factory=list)
    """Options of pip that uv lacks."""


def package_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that tell pip and uv how to reach packages."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("PIP_")
        or name.lower() in PROXIES
        or any(fnmatchcase(name, pattern) for pattern in _UV_SOURCES)
    }


def pip_options(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the options of `pip install` by name, such as `index-url`.

    They come from the configuration files of pip and from its variables, which take precedence.
    """
    options: dict[str, str] = {}
    for path in _configuration_files(environment):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            # pip itself names the error as soon as it runs.
            continue
        for section in _SECTIONS:
            if parser.has_section(section):
                options |= {_name(name): value for name, value in parser.items(section)}
    options |= {
        _name(name.removeprefix("PIP_")): value
        for name, value in environment.items()
        if name.startswith("PIP_")
    }
    return {name: value for name, value in options.items() if value.strip()}


def _name(text: str) -> str:
    return text.lower().replace("_", "-").removeprefix("--")


def _configuration_files(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the configuration files in pip's order; a later one takes precedence."""
    named = environment.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return
    home = Path(environment.get("HOME", "~")).expanduser()
    for directory in environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep):
        yield Path(directory or "/etc/xdg", "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    if sys.platform == "darwin":
        yield home / "Library/Application Support/pip/pip.conf"
    yield home / ".pip" / "pip.conf"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config", "pip", "pip.conf")
    if named:
        yield Path(named)


def uv_configuration(options: Mapping[str, str], environment: Mapping[str, str]) -> UvConfiguration:
    """Return the configuration of uv for options of pip.

    Variables of uv in the environment take precedence.
    """
    found = UvConfiguration()
    for name, value in options.items():
        if name in _LISTS:
            variable, separator = _LISTS[name]
            found.variables[variable] = separator.join(value.split())
        elif name in _VALUES:
            found.variables |= dict.fromkeys(_VALUES[name], value)
        elif name in _FLAGS:
            found.arguments += _FLAGS[name] if value.lower() in _TRUE else ()
        elif name not in _WITHOUT_EFFECT:
            found.unknown.append(name)
    for name in [each for each in found.variables if each.startswith("UV_")]:
        found.variables[name] = environment.get(name) or found.variables[name]
    return found


def has_only_uv_lines(text: str) -> bool:
    """Return whether uv knows all options in the text of a requirements file."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            return False
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        if any(option not in _UV_LINES and option != "--hash" for option in options):
            return False
    return True

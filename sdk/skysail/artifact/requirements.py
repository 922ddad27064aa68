"""Packages that a function needs in a replica, in the syntax of pip."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from skysail_common.artifacts import file_sha256
from skysail_common.errors import InvalidInput
from skysail_common.sent_wheels import wheel_path

# pip requires a space before a comment, because a URL may contain '#'.
_COMMENT = re.compile(r"(?:^|\s)#.*")
# The hashes and options of one requirement follow its name and versions.
_OPTIONS = re.compile(r"\s+--.*|\s*\\$")
_EGG = re.compile(r"[#&]egg=([A-Za-z0-9._-]+)")


def read_requirements(
    pkgs_to_install: Sequence[str], requirements: str | Path | None
) -> tuple[str, ...]:
    """Return the packages of a list and of a requirements file.

    Raises:
        InvalidInput: the file cannot be read.
    """
    packages = [pkgs_to_install] if isinstance(pkgs_to_install, str) else list(pkgs_to_install)
    if requirements is not None:
        try:
            lines = Path(requirements).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise InvalidInput(
                f"cannot read the requirements file {requirements}: {cause}; give the path of a "
                "text file in pip's format"
            ) from error
        packages += [_COMMENT.sub("", line).strip() for line in lines]
    return tuple(package for package in packages if package)


def send_wheels(requirements: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Path]]:
    """Return the requirements as replicas read them, and the wheels that travel by their paths.

    Wheels of this machine travel. A path that does not exist here may be one of the cluster.

    Raises:
        InvalidInput: a relative path names no wheel of this machine.
    """
    lines: list[str] = []
    wheels: dict[str, Path] = {}
    for line in requirements:
        path, options = _split_path(line)
        wheel = Path(path)
        if path.endswith(".whl") and wheel.is_file():
            sent = wheel_path(file_sha256(wheel), wheel.name)
            wheels[sent] = wheel.absolute()
            lines.append(f"{sent}{options}")
        elif path.startswith(("./", "../")) or path in (".", ".."):
            raise InvalidInput(
                f"cannot send the requirement {path!r}: it is no wheel on this machine; name a file "
                "that `python -m pip wheel --no-deps` makes, or send the code by code="
            )
        else:
            lines.append(line)
    return tuple(lines), wheels


def _split_path(line: str) -> tuple[str, str]:
    """Return the path that a requirement may be, and what follows it."""
    text = re.sub(r"^\s*(?:-e\s+|--editable[\s=]+|[\w.-]+\s*@\s*(?=file:))", "", line)
    path, space, options = text.partition(" ")
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    return path, f"{space}{options}"


def merge_requirements(given: Sequence[str], defaults: Sequence[str]) -> tuple[str, ...]:
    """Return the requirements of the user, and the defaults for distributions that they do not name.

    Hashes stand for a complete list, because pip then needs one for each package; no default is added.
    """
    if any("--hash" in line for line in given):
        return tuple(given)
    named = {distribution_name(line) for line in given}
    return (*given, *(line for line in defaults if distribution_name(line) not in named))


def distribution_name(line: str) -> str:
    """Return the canonical name of the distribution in a requirement; empty if it names none."""
    text = _OPTIONS.sub("", line.strip())
    try:
        return canonicalize_name(Requirement(text).name)
    except InvalidRequirement:
        pass
    if (egg := _EGG.search(text)) is not None:
        return canonicalize_name(egg[1])
    try:
        return str(parse_wheel_filename(text.partition("#")[0].rpartition("/")[2])[0])
    except InvalidWheelFilename:
        return ""

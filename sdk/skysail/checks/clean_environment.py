"""Environments for checks: Skysail with the packages that it needs, and nothing else of this machine.

<cache>/base-<key>/    links to the installed packages of Skysail
<cache>/env-<key>/     an environment on top of it, with the packages of a model
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skysail_common.errors import FailedPrecondition
from skysail_common.process.install_failures import failure_reason
from skysail_common.process.virtual_environments import install_command, make_environment
from skysail_common.sent_wheels import replace_wheels, wheel_path

_MARKER = ".complete"
_MAX_ENVIRONMENTS = 8
_LOG_LINES = 30


class EnvironmentFailed(FailedPrecondition):
    """The environment of a check cannot be built."""


def clean_environment(
    cache: Path,
    requirements: Sequence[str],
    artifact: Path,
    variables: Mapping[str, str],
    timeout_s: float,
    show: Callable[[str], None],
) -> Path:
    """Return the interpreter of an environment with these packages; the next call finds it.

    Args:
        cache: Directory of the environments, of which the last few stay.
        requirements: Lines of a requirements file.
        artifact: Directory of the artifact, with the wheels that travel.
        variables: Environment of uv or pip.
        timeout_s: Longest time of the installation, in seconds.
        show: Called with each line of its output.

    Raises:
        EnvironmentFailed: the packages cannot be installed; the message has the reason.
    """
    own = _distributions_of_skysail()
    versions = [f"{name} {each.version} {each.locate_file('')}" for name, each in own.items()]
    base_key = _key([sys.version, sys.prefix, *sorted(versions)])
    directory = cache / f"env-{_key([base_key, *requirements])}"
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(cache / "lock"):
            base = cache / f"base-{base_key}"
            if not (base / _MARKER).exists():
                shutil.rmtree(base, ignore_errors=True)
                _link(own.values(), base)
            if not (directory / _MARKER).exists():
                shutil.rmtree(directory, ignore_errors=True)
                make_environment(directory, [base])
                if requirements:
                    lines = replace_wheels(
                        requirements, lambda sha256, name: artifact / wheel_path(sha256, name)
                    )
                    _install(directory, lines, variables, timeout_s, show)
            (directory / _MARKER).touch()
            _remove_oldest(cache)
    except OSError as error:
        raise EnvironmentFailed(
            f"cannot build the environment of the check in {cache}: {error}; set XDG_CACHE_HOME to "
            "a writable directory"
        ) from error
    return directory / "bin" / "python"


def _key(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change the cache."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _distributions_of_skysail() -> dict[str, importlib.metadata.Distribution]:
    """Return Skysail and the installed distributions that it needs, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    pending = ["skysail"]
    while pending:
        name = canonicalize_name(pending.pop())
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = distribution
        for line in distribution.requires or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                pending.append(need.name)
    return found


def _link(distributions: Iterable[importlib.metadata.Distribution], base: Path) -> None:
    """Link the files of distributions into one directory."""
    base.mkdir()
    for distribution in distributions:
        tops = {file.parts[0] for file in distribution.files or ()}
        for top in sorted(tops - {"..", "__pycache__"}):
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (base / top).exists():
                (base / top).symlink_to(source)
    (base / _MARKER).touch()


def _install(
    directory: Path,
    requirements: Sequence[str],
    variables: Mapping[str, str],
    timeout_s: float,
    show: Callable[[str], None],
) -> None:
    file = directory / "requirements.txt"
    file.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    command = ["timeout", "--kill-after=5", f"{timeout_s:.0f}", *install_command(directory, file)]
    tail: deque[str] = deque(maxlen=_LOG_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", env=dict(variables),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line.rstrip())
            show(line.rstrip())
    if process.returncode:
        reason = failure_reason(list(tail)) or f"exit status {process.returncode}"
        raise EnvironmentFailed(f"cannot install the requirements: {reason}")


def _remove_oldest(cache: Path) -> None:
    """Remove all environments but the last used ones."""
    marks = sorted(cache.glob(f"env-*/{_MARKER}"), key=os.path.getmtime)
    for mark in marks[:-_MAX_ENVIRONMENTS]:
        shutil.rmtree(mark.parent, ignore_errors=True)

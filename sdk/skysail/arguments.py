"""Checks of the arguments of clients, in one place for all methods.

An argument has the same meaning in every method, so that its name selects the check.
"""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from os import PathLike
from typing import Any, TypeVar

import numpy as np

from skysail.descriptions import Route
from skysail.sentinels import NOT_GIVEN
from skysail_common.errors import InvalidInput, SkysailError
from skysail_common.process.sockets import split_host_port
from skysail_common.serving_options import PolicyName

Check = Callable[[Any], Any]
"""Returns a true value if an argument is legal."""
ClassT = TypeVar("ClassT", bound=type[Any])

_MAX_COUNT = 2**32 - 1
_MAX_DURATION_S = 86_400 * 365
_MAX_SHOWN = 60
_SECRET = ("environment", "token")


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    if _is_flag(value):
        return False
    try:
        return 0 <= operator.index(value) <= _MAX_COUNT
    except TypeError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not _is_flag(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_map_of_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, [*value, *value.values()]))


def _are_texts(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, bytes)
    return is_list and all(map(_is_text, value))


def _are_paths(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return is_list and all(isinstance(each, (str, PathLike)) for each in value)


def _is_route(value: Any) -> bool:
    is_route = isinstance(value, Route) and _is_text(value.model) and _is_text(value.version)
    return is_route and _is_number(value.weight) and isfinite(value.weight)


def _is_endpoint(value: Any) -> bool:
    if not _is_text(value):
        return False
    if value.startswith("unix:"):
        return True
    try:
        host, port = split_host_port(value)
    except ValueError:
        return False
    is_bracketed = "[" in value or ":" not in host
    return bool(host) and is_bracketed and "/" not in host and 0 < port <= 65_535


_TEXT = ("a text", _is_text)
_VERSION = (
    "a text or a whole number",
    lambda value: _is_text(value) or (_is_whole(value) and not isinstance(value, np.ndarray)),
)
_COUNT = (f"a whole number from 0 to {_MAX_COUNT}", _is_whole)
_AMOUNT = (
    "a number of at least 0",
    lambda value: _is_number(value) and value >= 0 and isfinite(value),
)
_DURATION = (
    "a number of seconds, more than 0 and at most a year",
    lambda value: _is_number(value) and 0 < value <= _MAX_DURATION_S,
)
_FLAG = ("True or False", _is_flag)
_MAP = ("a dictionary of texts", _is_map_of_texts)
_TEXTS = ("a list of texts", _are_texts)
_PATH = ("a path", lambda value: isinstance(value, (str, PathLike)))
_FILES = (
    "a dictionary of paths by name, such as {'weights.pt': 'out/best.pt'}",
    lambda value: (
        isinstance(value, Mapping)
        and all(map(_is_text, value))
        and all(isinstance(each, (str, PathLike)) for each in value.values())
    ),
)
_PATHS = ("a list of paths", _are_paths)
_FUNCTION = ("a function", callable)
_ROUTES = (
    "a list of Route, each with a text as its model and a number as its weight",
    lambda value: isinstance(value, Sequence) and all(map(_is_route, value)),
)
_ENDPOINT = (
    "host:port, such as 127.0.0.1:8003 or [::1]:8003, without http://",
    _is_endpoint,
)
_ANYTHING = ("anything", lambda value: True)

CHECKS: dict[str, tuple[str, Check]] = {
    "application": _TEXT,
    "artifact": _ANYTHING,
    "batch": _FLAG,
    "cache_ttl_s": _AMOUNT,
    "check": _FLAG,
    "code": _PATHS,
    "cpus": _AMOUNT,
    "default_output": _ANYTHING,
    "endpoint": _ENDPOINT,
    "environment": _MAP,
    "example": _ANYTHING,
    "examples": _ANYTHING,
    "files": _FILES,
    "follow": _FLAG,
    "force": _FLAG,
    "gpus": _AMOUNT,
    "input": _ANYTHING,
    "input_type": _TEXT,
    "inputs": _ANYTHING,
    "labels": _MAP,
    "management_tls_ca_file": _PATH,
    "max_batch_size": _COUNT,
    "max_concurrency": _COUNT,
    "max_queue_delay_s": _AMOUNT,
    "max_queue_size": _COUNT,
    "max_replicas": _COUNT,
    "memory_mib": _COUNT,
    "method": _TEXT,
    "min_replicas": _COUNT,
    "model": _TEXT,
    "name": _TEXT,
    "num_replicas": _COUNT,
    "num_threads": _COUNT,
    "on_event": _FUNCTION,
    "options": _ANYTHING,
    "pkgs_to_install": _TEXTS,
    "params": (
        "a dictionary of JSON values by name",
        lambda value: isinstance(value, Mapping),
    ),
    "policy": ("a PolicyName", lambda value: isinstance(value, PolicyName)),
    "preferred_batch_sizes": (
        "a list of whole numbers",
        lambda value: isinstance(value, Sequence) and all(map(_is_whole, value)),
    ),
    "priority_step_s": _AMOUNT,
    "progress": _FLAG,
    "promote": _FLAG,
    "query_endpoint": _ENDPOINT,
    "removes_default": _FLAG,
    "replica": _COUNT,
    "request": _ANYTHING,
    "requirements": _PATH,
    "routes": _ROUTES,
    "slo_ms": (
        "a number of milliseconds, more than 0 and at most a year",
        lambda value: _is_number(value) and 0 < value <= _MAX_DURATION_S * 1000,
    ),
    "source": _ANYTHING,
    "start_timeout_s": _DURATION,
    "tail_lines": _COUNT,
    "target": _TEXT,
    "timeout_s": _DURATION,
    "tls_ca_file": _PATH,
    "tls_certificate_file": _PATH,
    "tls_key_file": _PATH,
    "token": _TEXT,
    "uses_cache": _FLAG,
    "version": _VERSION,
    "wait": _FLAG,
    "warm_up": _FLAG,
}
"""Description and check of each argument, by its name."""


def check_argument(name: str, value: Any) -> None:
    """Check that the argument of this name accepts a value.

    Raises:
        InvalidInput: the value is illegal; the message names the argument.
    """
    what, is_possible = CHECKS[name]
    if not is_possible(value):
        text = f"a {type(value).__name__}" if name in _SECRET else repr(value)
        if len(text) > _MAX_SHOWN:
            text = f"{text[:_MAX_SHOWN]}…"
        raise InvalidInput(f"{name} must be {what}, got {text}{_odd_entry(value)}")


def _odd_entry(value: Any) -> str:
    """Describe the illegal entry of a dictionary without its value, which may be a secret."""
    if not isinstance(value, Mapping):
        return ""
    for key, entry in value.items():
        if not _is_text(key):
            return f", whose key {key!r} is of type {type(key).__name__}; give a text"
        if not _is_text(entry):
            return f", whose value of {key!r} is of type {type(entry).__name__}; give a text"
    return ""


def checked(cls: ClassT) -> ClassT:
    """Add checks of the arguments to every public method of a class."""
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_")):
            setattr(cls, name, _checking(method))
    return cls


def _checking(method: Callable[..., Any]) -> Callable[..., Any]:
    parameters = list(inspect.signature(method).parameters.values())[1:]
    names = [parameter.name for parameter in parameters]
    defaults = {parameter.name: parameter.default for parameter in parameters}

    @functools.wraps(method)
    def checking(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            default = defaults.get(name)
            # If NOT_GIVEN is the default, None is legal: it resets an option to the default of the server.
            is_default = value is default or (value is None and default is NOT_GIVEN)
            if not is_default and name in defaults:
                check_argument(name, value)
        try:
            return method(self, *args, **kwargs)
        except SkysailError as error:
            # The traceback ends at the line of the caller, because frames of the client are of no use.
            raise error.with_traceback(None) from error.__cause__

    return checking

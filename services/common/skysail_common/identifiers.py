"""Names and their text forms: `sum:3` is a version, `sum:3/0` a replica."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from skysail_common.errors import InvalidInput

MAX_NAME_LENGTH = 63
"""Longest name: the length limit of a DNS label and of a Kubernetes label value."""

_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z")

# First segments of the paths that frontends serve beside /{application}/predict.
_RESERVED_APPLICATION_NAMES = frozenset({"v1", "v2", "metrics", "health", "admin", "docs"})


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is a legal name of an application, model, version or cluster.

    Raises:
        InvalidInput: the name is illegal; the message contains `kind`.
    """
    if len(name) <= MAX_NAME_LENGTH and _NAME.match(name):
        return name
    raise InvalidInput(
        f"{kind} {name[:80]!r} is not a legal name: 1 to {MAX_NAME_LENGTH} letters, digits, "
        "'-', '_' or '.', the first and the last a letter or a digit"
    )


def check_application_name(name: str) -> str:
    """Return `name` if it is a legal name of an application.

    Raises:
        InvalidInput: the name is illegal, or a path of the HTTP interface begins with it.
    """
    check_name("application", name)
    if name in _RESERVED_APPLICATION_NAMES:
        raise InvalidInput(f"application {name!r} cannot have this name: HTTP paths begin with it")
    return name


class ModelVersion(NamedTuple):
    """The name of one immutable version of a model."""

    model_name: str
    version: str

    def __str__(self) -> str:
        return f"{self.model_name}:{self.version}"

    @classmethod
    def checked(cls, model_name: str, version: str) -> "ModelVersion":
        """Return the version of these names.

        Raises:
            InvalidInput: one of them is illegal.
        """
        return cls(check_name("model", model_name), check_name("version", version))

    @classmethod
    def parse(cls, text: str) -> "ModelVersion":
        """Return the version that `text`, such as `sum:3`, names.

        Raises:
            InvalidInput: the text has another form.
        """
        model_name, colon, version = text.partition(":")
        if not colon:
            raise InvalidInput(f"{text[:80]!r} does not name a version; write model:version")
        return cls.checked(model_name, version)


@dataclass(frozen=True, order=True)
class ReplicaId:
    """The name of one replica of a model version."""

    model_version: ModelVersion
    index: int

    def __str__(self) -> str:
        return f"{self.model_version}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> "ReplicaId":
        """Return the replica that `text`, such as `sum:3/0`, names.

        Raises:
            InvalidInput: the text has another form.
        """
        version, _, index = text.rpartition("/")
        if not _INDEX.match(index):
            raise InvalidInput(f"{text[:80]!r} does not name a replica; write model:version/index")
        return cls(ModelVersion.parse(version), int(index))

"""What all deployers share: the arguments of Clipper, as those of `Client.deploy`."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skysail.calls.promotion_warning import SkysailWarning
from skysail.client import Client
from skysail.descriptions import Version
from skysail.errors import InvalidInput
from skysail.sentinels import NOT_GIVEN

DEFAULT_IMAGE = "default"
ADAPTIVE = -1
"""Batch size that Clipper adapts by itself."""

Labels = Mapping[str, str] | Sequence[str] | None

_INPUT_TYPES = {
    "i": "integers", "int": "integers", "ints": "integers", "integer": "integers",
    "f": "floats", "float": "floats", "d": "doubles", "double": "doubles",
    "b": "bytes", "byte": "bytes", "s": "strings", "str": "strings", "strs": "strings",
    "string": "strings",
}  # fmt: skip
_DEPTH = 3
"""Frames between the warning and the caller of a deployer."""


@dataclass(frozen=True)
class Request:
    """The arguments that all deployers share."""

    client: Client
    name: str
    version: str | int
    input_type: str
    base_image: str | None
    labels: Labels
    registry: str | None
    num_replicas: int
    batch_size: int
    pkgs_to_install: Sequence[str] | None

    def deploy(self, source: Any, **application: Any) -> Version:
        """Deploy a function of a list; `application` are arguments of `Client.deploy`.

        Raises:
            InvalidInput: an argument is illegal; the message names it.
        """
        if self.batch_size != ADAPTIVE and self.batch_size < 1:
            raise InvalidInput(
                f"cannot use batch_size={self.batch_size}: it must be at least 1, or {ADAPTIVE} to "
                "adapt it"
            )
        _warn_if_ignored("base_image", self.base_image, (None, "", DEFAULT_IMAGE))
        _warn_if_ignored("registry", self.registry, (None, ""))
        return self.client.deploy(
            source,
            name=self.name,
            version=self.version,
            input_type=_INPUT_TYPES.get(self.input_type, self.input_type),
            labels=_labels(self.labels),
            num_replicas=self.num_replicas,
            max_batch_size=None if self.batch_size == ADAPTIVE else self.batch_size,
            pkgs_to_install=self.pkgs_to_install or (),
            **application,
        )

    def create_endpoint(self, source: Any, default_output: Any, slo_micros: int) -> Version:
        """Deploy a function of a list, and serve it as the application of the same name."""
        return self.deploy(
            source,
            application=self.name,
            slo_ms=slo_micros / 1000,
            default_output=NOT_GIVEN if default_output is None else default_output,
        )


def _warn_if_ignored(name: str, value: str | None, meaningless: tuple[str | None, ...]) -> None:
    if value not in meaningless:
        warnings.warn(
            f"{name}={value!r} is ignored: replicas run in the environment that Skysail builds; name "
            "the packages that the model needs in pkgs_to_install",
            SkysailWarning,
            stacklevel=_DEPTH + 1,
        )


def _labels(labels: Labels) -> Mapping[str, str] | None:
    if labels is None or isinstance(labels, Mapping):
        return labels
    return dict.fromkeys(labels, "")

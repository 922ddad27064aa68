"""The result of a check."""

from collections.abc import Sequence
from dataclasses import dataclass

from skysail_common.tensors import Signature, TensorSpec


@dataclass(frozen=True, repr=False)
class CheckReport:
    """The result of a check of a model; true if a replica could serve it."""

    problem: str
    """Reason why a replica could not, with the fix if it is known; empty if it could."""
    signature: Signature
    """Inputs and outputs of the model."""
    requirements: tuple[str, ...]
    """Packages that its replicas install."""
    packages: tuple[str, ...]
    """Packages to which it refers, with the versions on this machine."""
    num_files: int
    """Files that travel."""
    size_bytes: int
    """Size of the files."""
    build_s: float
    """Time to package the model and to run it on this machine, seconds."""
    environment_s: float
    """Time to build the environment, seconds; a check with the same packages finds it."""
    load_s: float = 0.0
    """Time to load the model, seconds."""
    answer_s: float = 0.0
    """Time of the first answer to the example, seconds; 0 without an example."""
    log: str = ""
    """Output of the model, and the traceback of a failure."""

    def __bool__(self) -> bool:
        return not self.problem

    def __str__(self) -> str:
        """Return the report as lines for people."""
        lines = [
            f"inputs        {_specs(self.signature.inputs)}",
            f"outputs       {_specs(self.signature.outputs)}",
            f"packages      {', '.join(self.requirements) or 'none besides those of Skysail'}",
            f"files         {self.num_files}, {self.size_bytes / 1e6:.1f} MB",
            f"times         build {self.build_s:.1f} s, environment {self.environment_s:.1f} s, load "
            f"{self.load_s:.1f} s, first answer {self.answer_s * 1000:.0f} ms",
        ]
        return "\n".join([*lines, self._verdict])

    def __repr__(self) -> str:
        return f"<CheckReport, {self._verdict}>"

    @property
    def _verdict(self) -> str:
        return f"failed: {self.problem}" if self.problem else "a replica can serve the model"


def _specs(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype.name} {list(spec.shape)}" for spec in specs)

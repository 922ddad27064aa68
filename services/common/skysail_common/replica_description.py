"""What a replica tells about the model that it has loaded."""

from dataclasses import dataclass

from skysail_common.tensors import Signature

_MAX_NAMED = 8


@dataclass(frozen=True)
class PackageDifference:
    """A package whose version in a replica is not that of the machine of the deploy."""

    package: str
    deployed_version: str
    """Version on the machine of the deploy."""
    installed_version: str
    """Version in the replica."""

    def __str__(self) -> str:
        return (
            f"{self.package} is {self.installed_version} here and was {self.deployed_version} there"
        )


@dataclass(frozen=True)
class ReplicaDescription:
    """The description of a loaded model."""

    learned_signature: Signature | None = None
    """Inputs and outputs that the replica learned; None if the artifact states them."""
    package_differences: tuple[PackageDifference, ...] = ()


def describe_differences(differences: tuple[PackageDifference, ...]) -> str:
    """Return a sentence about packages with other versions; empty if there are none."""
    if not differences:
        return ""
    named = [
        f"{each.package} {each.installed_version} (deployed with {each.deployed_version})"
        for each in differences[:_MAX_NAMED]
    ]
    more = len(differences) - len(named)
    others = f" and {more} more" if more else ""
    return f"replicas have other package versions: {', '.join(named)}{others}"

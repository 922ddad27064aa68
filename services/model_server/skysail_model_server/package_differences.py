"""Compares the packages that an artifact was made with to those that are installed here.

Nothing is refused because of a difference: another distribution may have the same module
(`opencv-python-headless` has that of `opencv-python`), and a module may import a package that the
function never uses. A difference becomes a hint once something fails.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from skysail_common.artifacts import Manifest


@dataclass(frozen=True)
class PackageDifferences:
    """Packages that are missing here or have another version."""

    missing: tuple[str, ...] = ()
    """Requirements, such as `httpx==0.28.1`, of which no module can be imported here."""
    differing: tuple[str, ...] = ()
    """Sentences, such as `numpy is 2.4.6 here and was 1.26.4 there`."""
    import_reason: str = ""

    def hints(self, error: BaseException) -> Iterator[str]:
        """Yield the differences that may have caused an error, as lines of text."""
        failed_import = _failed_import(error)
        if failed_import is not None and self.missing:
            yield (
                f"packages that are not installed here: {', '.join(self.missing)}; name them in "
                "pkgs_to_install"
            )
        if self.import_reason:
            yield self.import_reason
        if self.differing:
            yield "versions differ, which may be why: " + "; ".join(self.differing)


def compare_packages(manifest: Manifest) -> PackageDifferences:
    """Return how the packages of an artifact differ from those that are installed here."""
    missing: list[str] = []
    differing: list[str] = []
    for package, wanted in sorted(manifest.packages.items()):
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            modules = [name for name, owners in manifest.modules.items() if package in owners]
            if not modules or not all(map(_is_importable, modules)):
                missing.append(f"{package}=={wanted}")
        else:
            if found != wanted:
                differing.append(f"{package} is {found} here and was {wanted} there")
    return PackageDifferences(tuple(missing), tuple(differing), manifest.import_reason)


def _is_importable(module: str) -> bool:
    # The parents of a dotted name would be imported.
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _failed_import(error: BaseException | None) -> ImportError | None:
    """Return the failed import that an error is, or was caused by."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ImportError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None

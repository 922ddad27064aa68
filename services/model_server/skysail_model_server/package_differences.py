"""Comparison of the packages at the deploy of a function with the packages of a replica.

A difference alone is not an error. Another distribution may have the same module
(`opencv-python-headless` has that of `opencv-python`), and a module may import a package that the
function never uses. A difference becomes a hint when the function fails.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from skysail_common.artifacts import Manifest
from skysail_common.replica_description import PackageDifference


@dataclass(frozen=True)
class PackageDifferences:
    """Packages that are missing in the replica or have another version."""

    missing: tuple[str, ...] = ()
    """Requirements, such as `httpx==0.28.1`, without an importable module in the replica."""
    versions: tuple[PackageDifference, ...] = ()
    import_reason: str = ""
    modules: frozenset[str] = frozenset()
    """First names of the modules of the missing packages."""

    @property
    def differing(self) -> tuple[str, ...]:
        """Sentences, such as `numpy is 2.4.6 here and was 1.26.4 there`."""
        return tuple(map(str, self.versions))

    def hints(self, error: BaseException) -> Iterator[str]:
        """Yield the differences that may have caused an error, one line each."""
        failed_import = _failed_import(error)
        if isinstance(failed_import, ModuleNotFoundError) and not self._has(failed_import.name):
            yield (
                f"the module {failed_import.name!r} is not here: name it in code= if it is yours, or "
                "its package in pkgs_to_install"
            )
        if failed_import is not None and self.missing:
            yield (
                f"packages that are not installed here: {', '.join(self.missing)}; add them to "
                "pkgs_to_install"
            )
        if self.import_reason:
            yield self.import_reason
        if self.differing:
            yield "versions differ, which may be the cause: " + "; ".join(self.differing)

    def _has(self, module: str | None) -> bool:
        return (module or "").partition(".")[0] in self.modules


def compare_packages(manifest: Manifest) -> PackageDifferences:
    """Return the differences between the packages of an artifact and the installed ones."""
    missing: list[str] = []
    differing: list[PackageDifference] = []
    modules: set[str] = set()
    for package, wanted in sorted(manifest.packages.items()):
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            own = [name for name, owners in manifest.modules.items() if package in owners]
            if not own or not all(map(_is_importable, own)):
                missing.append(f"{package}=={wanted}")
                modules.update(name.partition(".")[0] for name in [*own, package])
        else:
            if found != wanted:
                differing.append(PackageDifference(package, wanted, found))
    return PackageDifferences(
        tuple(missing), tuple(differing), manifest.import_reason, frozenset(modules)
    )


def _is_importable(module: str) -> bool:
    # The look-up stops at the first name, because find_spec imports the parents of a dotted name.
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _failed_import(error: BaseException | None) -> ImportError | None:
    """Return the first ImportError among an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ImportError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None

"""Comparison of the packages at the deploy of a function with the packages of a replica.

A difference alone is not an error. Another distribution may have the same module
(`opencv-python-headless` has that of `opencv-python`), and a module may import a package that the
function never uses. A difference becomes a hint when the function fails.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from skysail_common.artifacts import Manifest
from skysail_common.replica_description import PackageDifference


@dataclass(frozen=True)
class PackageDifferences:
    """Packages that are missing in the replica or have another version."""

    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modules by requirement, such as `httpx==0.28.1`, that cannot be imported in the replica; none if
    the modules of the package are not known."""
    versions: tuple[PackageDifference, ...] = ()
    import_reason: str = ""

    @property
    def differing(self) -> tuple[str, ...]:
        """Sentences, such as `numpy is 2.4.6 here and was 1.26.4 there`."""
        return tuple(map(str, self.versions))

    def hints(self, error: BaseException) -> Iterator[str]:
        """Yield the differences that may have caused an error, one line each."""
        failed_import = _failed_import(error)
        if failed_import is not None:
            yield from self._import_hints(failed_import)
        if self.import_reason:
            yield self.import_reason
        if self.differing:
            yield "versions differ, which may be the cause: " + "; ".join(self.differing)

    def _import_hints(self, error: ImportError) -> Iterator[str]:
        name = error.name or ""
        needed = [
            requirement
            for requirement, modules in self.missing.items()
            if any(
                _is_within(name, each) or _is_within(each, name)
                for each in (*modules, requirement.partition("==")[0].replace("-", "_"))
            )
        ]
        if not needed:
            # Formats name packages without their modules, such as tensorflow-cpu.
            needed = [requirement for requirement, modules in self.missing.items() if not modules]
        is_absent = isinstance(error, ModuleNotFoundError)
        if not needed and not is_absent:
            # An installed package refuses to be imported, often because it misses another one.
            needed = list(self.missing)
        others = [requirement for requirement in self.missing if requirement not in needed]
        if needed:
            which = "it" if len(needed) == 1 else "them"
            yield f"not installed here: {', '.join(needed)}; add {which} to pkgs_to_install (--pkg)"
        elif is_absent:
            yield (
                f"the module {name!r} is not here: name it in code= (--code) if it is yours, or its "
                "package in pkgs_to_install (--pkg)"
            )
        if others:
            yield f"also not installed here: {', '.join(others)} (maybe not needed)"


def compare_packages(manifest: Manifest) -> PackageDifferences:
    """Return the differences between the packages of an artifact and the installed ones."""
    missing: dict[str, tuple[str, ...]] = {}
    differing: list[PackageDifference] = []
    for package, wanted in sorted(manifest.packages.items()):
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            own = [name for name, owners in manifest.modules.items() if package in owners]
            if not own or not all(map(_is_importable, own)):
                missing[f"{package}=={wanted}"] = tuple(own)
        else:
            if found != wanted:
                differing.append(PackageDifference(package, wanted, found))
    return PackageDifferences(missing, tuple(differing), manifest.import_reason)


def _is_within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


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

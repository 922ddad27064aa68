"""The difference between two artifacts, as far as their manifests show it."""

from skysail_common.artifacts import Manifest

_MAX_SHOWN = 5


def describe_difference(given: Manifest, registered: Manifest) -> str:
    """Return the versions that differ between two artifacts; empty if they agree."""
    ours, theirs = _versions(given), _versions(registered)
    names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if not names:
        return ""
    made = ", ".join(_shown(name, ours) for name in names[:_MAX_SHOWN])
    before = ", ".join(_shown(name, theirs) for name in names[:_MAX_SHOWN])
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return f"this content uses {made}{more}, the registered content {before}{more}"


def _shown(name: str, versions: dict[str, str]) -> str:
    return f"{name} {versions[name]}" if name in versions else f"no {name}"


def _versions(manifest: Manifest) -> dict[str, str]:
    return {
        "Python": manifest.python_version,
        "skysail": manifest.skysail_version,
        **manifest.packages,
    }

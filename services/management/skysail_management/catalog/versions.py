"""The names of versions, and the records that a removal of a version changes."""

from skysail_common.identifiers import ModelVersion
from skysail_management.records import PendingChange, Records


def removal_changes(
    records: Records, version: ModelVersion, *, keeps_number: bool = False
) -> list[PendingChange]:
    """Return the changes that remove a version, and its model with its last version.

    Args:
        records: The records.
        version: A version that is not current, unless it is the last one.
        keeps_number: True if the server must not use its number for a later version.
    """
    name = str(version)
    changes: list[PendingChange] = [records.versions.delete(name), records.profiles.delete(name)]
    model = records.models.get(version.model_name)
    if model is None:
        return changes
    others = [
        record
        for record in records.versions.all()
        if record.model == version.model_name and record.version != version.version
    ]
    if not others:
        changes.append(records.models.delete(model.name))
        return changes
    previous = tuple(name for name in model.previous_versions if name != version.version)
    number = max(model.last_number, version_number(version.version) if keeps_number else 0)
    if (previous, number) != (model.previous_versions, model.last_number):
        update = {"previous_versions": previous, "last_number": number}
        changes.append(records.models.put(model.name, model.model_copy(update=update)))
    return changes


def resolve_version_name(records: Records, model: str, artifact_sha256: str) -> str:
    """Return the version for an artifact that the caller does not name.

    The result is the newest version with the same artifact. Otherwise it is the number after the
    highest one that a version of the model has or had.
    """
    versions = [record for record in records.versions.all() if record.model == model]
    same = [record for record in versions if record.artifact_sha256 == artifact_sha256]
    if same:
        return max(same, key=lambda record: record.registered_at).version
    known = records.models.get(model)
    highest = known.last_number if known else 0
    return str(max([highest, *(version_number(record.version) for record in versions)]) + 1)


def version_number(version: str) -> int:
    """Return the number that is the name of a version; 0 for other names."""
    return int(version) if version.isdecimal() else 0

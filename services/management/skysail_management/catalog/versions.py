"""Names of versions, and the records that are removed with one."""

from skysail_common.identifiers import ModelVersion
from skysail_management.records import PendingChange, Records


def removal_changes(
    records: Records, version: ModelVersion, *, keeps_number: bool = False
) -> list[PendingChange]:
    """Return the changes that remove a version, and its model with the last version of it.

    Args:
        records: The records.
        version: A version that is not current, unless it is the last.
        keeps_number: True if no version that the server names may have its number again.
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
    """Return the version that an artifact without a name becomes.

    It is the newest version of the same content; if there is none, the number after the highest
    that a version of the model has or had.
    """
    versions = [record for record in records.versions.all() if record.model == model]
    same = [record for record in versions if record.artifact_sha256 == artifact_sha256]
    if same:
        return max(same, key=lambda record: record.registered_at).version
    known = records.models.get(model)
    highest = known.last_number if known else 0
    return str(max([highest, *(version_number(record.version) for record in versions)]) + 1)


def version_number(version: str) -> int:
    """Return the number that a version is named by; 0 if it has another name."""
    return int(version) if version.isdecimal() else 0

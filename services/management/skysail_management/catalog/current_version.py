"""The current version of a model, and the history for rollbacks."""

from collections.abc import Callable

from skysail_common.identifiers import ModelVersion
from skysail_management.records import ModelRecord, PendingChange, Records

MAX_PREVIOUS_VERSIONS = 50
"""Length of the rollback history of a model; the oldest versions are dropped beyond."""


def promote(model: ModelRecord, version: ModelVersion) -> ModelRecord:
    """Return the model with this version as the current one, and the present one in the history."""
    previous = [name for name in model.previous_versions if name != version.version]
    if model.current_version:
        previous.append(model.current_version)
    return model.model_copy(
        update={
            "current_version": version.version,
            "previous_versions": tuple(previous[-MAX_PREVIOUS_VERSIONS:]),
        }
    )


def roll_back(model: ModelRecord, is_ready: Callable[[ModelVersion], bool]) -> ModelRecord | None:
    """Return the model with the newest earlier version that is ready as the current one.

    The history loses the present version and the skipped ones, so that another rollback goes
    further back.

    Returns:
        None if no earlier version is ready.
    """
    for index in reversed(range(len(model.previous_versions))):
        name = model.previous_versions[index]
        if is_ready(ModelVersion(model.name, name)):
            earlier = model.previous_versions[:index]
            update = {"current_version": name, "previous_versions": earlier}
            return model.model_copy(update=update)
    return None


def promotion_changes(records: Records, version: ModelVersion) -> list[PendingChange]:
    """Return the changes that promote a version; none if it is current."""
    model = records.models.get(version.model_name)
    record = records.versions.get(str(version))
    if model is None or record is None or model.current_version == version.version:
        return []
    changes = [records.models.put(model.name, promote(model, version))]
    if not record.was_current:
        # A repeated deployment does not promote the version again.
        seen = record.model_copy(update={"was_current": True})
        changes.append(records.versions.put(str(version), seen))
    return changes

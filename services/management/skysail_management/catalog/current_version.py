"""Which version of a model is current, and which were before."""

from collections.abc import Callable

from skysail_common.identifiers import ModelVersion
from skysail_management.records import ModelRecord, PendingChange, Records

MAX_PREVIOUS_VERSIONS = 50
"""Versions that a model can be rolled back to; the oldest are forgotten beyond."""


def promote(model: ModelRecord, version: ModelVersion) -> ModelRecord:
    """Return the model with this version as the current one, and the history to go back."""
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

    Neither the version that is left nor those that are passed over stay in the history: another
    rollback goes further back.

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
    """Return the changes that make a version the current one; none if it is."""
    model = records.models.get(version.model_name)
    record = records.versions.get(str(version))
    if model is None or record is None or model.current_version == version.version:
        return []
    changes = [records.models.put(model.name, promote(model, version))]
    if not record.was_current:
        # A deployment that is run again does not promote it another time.
        seen = record.model_copy(update={"was_current": True})
        changes.append(records.versions.put(str(version), seen))
    return changes

"""The audit log: a line for each change of the records, by an operator or the reconciler."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from skysail_common.errors import shown
from skysail_common.serving_options import ServingOptions
from skysail_common.store import Table

log = logging.getLogger(__name__)
# The audit log ignores the log level, because changes are rare and operators investigate them
# later.
log.setLevel(logging.INFO)

# Profiles are missing because frontends learn them and no operator requests one.
_NOUNS = {
    Table.APPLICATIONS: "application",
    Table.MODELS: "model",
    Table.VERSIONS: "version",
    Table.DEPLOYMENTS: "version",
}
_CREATED: dict[Table, tuple[str, tuple[str, ...]]] = {
    Table.APPLICATIONS: ("application registered", ("input_type", "slo_s", "default_output_json")),
    Table.MODELS: ("model registered", ()),
    Table.VERSIONS: ("version registered", ("artifact_sha256", "labels")),
    Table.DEPLOYMENTS: ("version deployed", ("num_replicas", "promote_when_ready")),
}
_REMOVED = {
    Table.APPLICATIONS: "application unregistered",
    Table.MODELS: "model unregistered",
    Table.VERSIONS: "version unregistered",
    Table.DEPLOYMENTS: "version undeployed",
}
_CHANGED: dict[Table, dict[str, str]] = {
    Table.APPLICATIONS: {
        "routes": "application linked",
        "slo_s": "application changed",
        "default_output_json": "application changed",
        "bypasses_cache": "application changed",
    },
    Table.MODELS: {"current_version": "version promoted"},
    Table.VERSIONS: {"labels": "version labelled"},
    Table.DEPLOYMENTS: {
        "num_replicas": "version scaled",
        "autoscaling": "version scaled",
        "serving": "version tuned",
        "start_timeout_s": "version tuned",
        "warm_up": "version tuned",
        "is_rolled_out": "rollout complete",
    },
}
"""The event of each field; a change of another field has no line."""


def log_change(
    table: Table, name: str, before: BaseModel | None, after: BaseModel | None, why: str = ""
) -> None:
    """Log a committed change, with the object and the old and new values.

    Args:
        table: Kind of the object.
        name: Its name.
        before: The old record; None for a new object.
        after: The new record; None for a removed object.
        why: Reason of the change; empty for a request of an operator.
    """
    if table not in _NOUNS:
        return
    reason = {"reason": why} if why else {}
    for event, details in _events(table, before, after):
        log.info(event, extra={_NOUNS[table]: name, **details, **reason})


def _events(
    table: Table, before: BaseModel | None, after: BaseModel | None
) -> Iterator[tuple[str, dict[str, str]]]:
    if after is None:
        if before is not None:
            yield _REMOVED[table], {}
    elif before is None:
        event, fields = _CREATED[table]
        yield event, {field: _text(getattr(after, field)) for field in fields}
    else:
        found: dict[str, dict[str, str]] = {}
        for field, event in _CHANGED[table].items():
            pair = getattr(before, field), getattr(after, field)
            if pair[0] != pair[1]:
                if field == "current_version" and _is_rollback(before, after):
                    event = "version rolled back"
                found.setdefault(event, {}).update(_details(field, *pair))
        yield from found.items()


def _details(field: str, before: Any, after: Any) -> dict[str, str]:
    if isinstance(before, ServingOptions):
        pairs = {name: (value, getattr(after, name)) for name, value in vars(before).items()}
    else:
        pairs = {field: (before, after)}
    return {
        name: f"{_text(old)} → {_text(new)}" for name, (old, new) in pairs.items() if old != new
    }


def _is_rollback(before: Any, after: Any) -> bool:
    # A rollback does not add the previous version to the history.
    return (
        after.current_version in before.previous_versions
        and before.current_version not in after.previous_versions
    )


def _text(value: object) -> str:
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, tuple):
        return ", ".join(_text(each) for each in value)
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return shown(" ".join(f"{key}={part}" for key, part in value.items() if part != ""))
    return shown(str(value))

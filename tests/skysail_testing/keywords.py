"""Conversion of keyword arguments of test helpers to value objects."""

from dataclasses import fields, replace
from typing import Any, TypeVar

from skysail_common.resources import ResourceChanges, Resources

T = TypeVar("T", Resources, ResourceChanges)


def take_resources(values: dict[str, Any], defaults: T) -> T:
    """Remove the resources from keyword arguments, and return them over the defaults."""
    names = {field.name for field in fields(defaults)} & values.keys()
    return replace(defaults, **{name: values.pop(name) for name in names})

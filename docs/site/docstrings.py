"""Docstrings of the package `skysail` as the page of the Python API shows them."""

from typing import Any

import griffe


class PageDocstrings(griffe.Extension):
    """Completes `Client` from `AsyncClient`, and lists the fields of dataclasses at their class."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Move docstrings of the fields of a dataclass into a section of the class docstring."""
        if "skysail" not in cls.path or not any(
            "dataclass" in str(each.value) for each in cls.decorators
        ):
            return
        lines = []
        for name, member in cls.members.items():
            if member.is_attribute and member.docstring is not None and not name.startswith("_"):
                lines.append(f"    {name}: {' '.join(member.docstring.value.split())}")
                member.docstring = None
        if lines and cls.docstring is not None:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(lines)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Give the methods of `Client` the docstrings of `AsyncClient`, as the module does for `help()`."""
        if pkg.path != "skysail":
            return
        asynchronous = pkg["async_client.AsyncClient"].all_members
        for name, member in pkg["client.Client"].members.items():
            twin = asynchronous.get(name)
            if member.is_function and twin is not None and twin.docstring is not None:
                member.docstring = twin.docstring

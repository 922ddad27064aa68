"""The documentation of `Client`: that of `AsyncClient`, where a method refers to it."""

import re
from typing import Any

import griffe

_REFERENCE = re.compile(r"(.*?); see `AsyncClient(?:\.(\w+))?`\.?$", re.DOTALL)


class ClientDocstrings(griffe.Extension):
    """Replaces "see `AsyncClient.predict`" by what stands there."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Complete the methods of `Client` once the package `skysail` is read."""
        if pkg.path != "skysail":
            return
        original = pkg["async_client.AsyncClient"]
        for name, member in pkg["client.Client"].members.items():
            if member.docstring is None:
                continue
            if found := _REFERENCE.match(member.docstring.value.strip()):
                asynchronous = original.all_members[found[2] or name]
                if asynchronous.docstring is not None:
                    member.docstring = asynchronous.docstring

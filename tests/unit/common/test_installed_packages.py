import importlib.metadata
from typing import ClassVar

import pytest

from skysail_common.process.installed_packages import are_installed

CLICK = importlib.metadata.version("click")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["click"],
        ["Click>=1", f"click=={CLICK}"],
        ["no-such-package; python_version < '3'"],
        ["click[no-such-extra]"],
    ],
)
def test_installed_packages_satisfy_requirements(lines: list[str]):
    assert are_installed(lines)


@pytest.mark.parametrize(
    "line",
    [
        "no-such-package",
        "click==0.1",
        "click @ https://index.example/click-1.0-py3-none-any.whl",
        "./click-1.0-py3-none-any.whl",
        "--extra-index-url https://index.example",
        "click --hash=sha256:00",
        "",
    ],
)
def test_other_lines_need_an_installation(line: str):
    assert not are_installed(["click", line])


class Distribution:
    """A distribution with extras, of which one needs the other."""

    version = "1.0"
    metadata: ClassVar = {"Name": "Own"}
    requires = (
        "no-such-package; extra == 'big'",
        "own[all]; extra == 'all'",
        "click; extra == 'small'",
    )


def test_the_needs_of_an_extra_are_satisfied_too(monkeypatch):
    real = importlib.metadata.distribution
    monkeypatch.setattr(
        importlib.metadata,
        "distribution",
        lambda name: Distribution() if name == "own" else real(name),
    )
    assert are_installed(["own", "own[small]", "own[all]"])
    assert not are_installed(["own[small,big]"])

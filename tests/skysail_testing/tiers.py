"""Which tests belong to which tier, and which of them run one after another in one process.

make test       the first tier: what a change is tried with, in three minutes
make test-all   the first tier, then all others
"""

from collections.abc import Sequence
from typing import Any

FIRST_TIER = (
    # On one cluster, the longest of all: begun first.
    "tests/integration/test_main_job.py",
    "tests/integration/test_cli.py",
    "tests/integration/test_failures.py",
    "tests/contract/test_container_managers.py",
    "tests/contract/test_local_processes.py",
    "tests/contract/transports",
    "tests/contract/test_silent_peers.py",
    "tests/contract/test_store.py",
    "tests/contract/test_store_ownership.py",
    "tests/contract/test_store_refusals.py",
    "tests/contract/test_ownership_machine.py",
    "tests/unit",
)
"""Files and folders in the order in which their tests begin; not what needs Docker or Kubernetes."""

_CONTAINERS = "Kubernetes, containers"
_WHOLE = "Kubernetes, whole clusters"
_TOGETHER = {
    "tests/integration/test_main_job.py": "the shared cluster",
    "tests/integration/test_cli.py": "the shared cluster",
    "tests/integration/test_failures.py": "the shared cluster",
    "tests/integration/query_plane": "the query plane",
    # They wait for pods most of the time: two tests at once.
    "tests/e2e/on_kubernetes": _WHOLE,
    "tests/contract/test_kubernetes_cluster.py": _CONTAINERS,
    "tests/contract/test_network_policies.py": _CONTAINERS,
    "tests/e2e/test_leader_lease.py": _CONTAINERS,
    # One engine, of which some of them count the images and containers.
    "tests/contract/test_docker_engine.py": "Docker",
    "tests/contract/test_slow_registry.py": "Docker",
    "tests/e2e/test_all_in_docker.py": "Docker",
    "tests/e2e/test_docker.py": "Docker",
    "tests/e2e/test_files_in_docker.py": "Docker",
}
NUM_WAITING = 2
"""How many groups leave a core idle nearly all the time."""

_ELSEWHERE = {"[docker": "Docker", "[kubernetes": _CONTAINERS}
"""What a case of a contract needs, by how its name begins."""


def is_in_first_tier(test: str) -> bool:
    """Tell whether a test, by its id, belongs to the first tier."""
    file = _file(test)
    return _place(file) < len(FIRST_TIER) and not any(case in test for case in _ELSEWHERE)


def group(test: str) -> str:
    """Return the name that a test shares with those that run in the same process, in order."""
    for case, name in _ELSEWHERE.items():
        if case in test:
            return name
    file = _file(test)
    folder = file.rpartition("/")[0]
    if folder == "tests/formats":
        # The model of a case stays up for all tests of the case.
        return test.rpartition("[")[2] or file
    return _TOGETHER.get(file) or _TOGETHER.get(folder) or file


def in_order(tests: Sequence[Any], name: Any) -> list[Any]:
    """Return tests, of which `name` returns the id, in the order in which to begin with them.

    What waits begins first, so that it does not end last; the tests of a group are neighbours.
    """
    groups: dict[str, list[Any]] = {}
    for test in sorted(tests, key=lambda each: _place(_file(name(each)))):
        groups.setdefault(group(name(test)), []).append(test)
    waiting = sorted(groups, key=lambda each: each not in (_WHOLE, _CONTAINERS, "Docker"))
    return [test for each in waiting for test in groups[each]]


def _file(test: str) -> str:
    return test.partition("::")[0]


def _place(file: str) -> int:
    for place, part in enumerate(FIRST_TIER):
        if file == part or file.startswith(f"{part}/"):
            return place
    return len(FIRST_TIER)

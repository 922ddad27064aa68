"""Tiers, markers by folder, `--require`, and the check that a run leaves nothing behind."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

from skysail_testing import kubernetes_clusters, tiers
from skysail_testing.examples import THOROUGH

# The same examples in every run, at any speed of the machine: what is tested changes with a commit
# and by nothing else.
_ANY_SPEED = hypothesis.settings(
    hypothesis.settings.get_profile("default"),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
for _name, _number in (("quick", THOROUGH // 4), ("thorough", THOROUGH)):
    hypothesis.settings.register_profile(_name, _ANY_SPEED, derandomize=True, max_examples=_number)
hypothesis.settings.register_profile("seek", _ANY_SPEED, derandomize=False, max_examples=THOROUGH)
hypothesis.settings.load_profile("quick")

_MARKED_FOLDERS = ("contract", "integration", "e2e")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier",
        choices=["first", "rest"],
        help="run the tests of the first tier, or all others; where paths are given, those are the "
        "first tier, and there are no others",
    )
    parser.addoption(
        "--require",
        default="",
        help="comma-separated things that must be there (docker, kubernetes, grpcurl, …): a test "
        "that would be skipped for the lack of one fails instead",
    )
    parser.addoption(
        "--transport",
        default="auto",
        choices=["auto", "grpc", "native"],
        help="what carries the query path of the clusters that tests start",
    )


# First, because pytest's own plugin makes its directory by what is set here.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--tier") == "first" and not _has_paths(config):
        config.args = [str(config.rootpath / path) for path in tiers.FIRST_TIER]
    # Told to stop from outside, a run still removes what it made.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A run in the background of a script or under nohup ignores these, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if _only_distributes(config):
        from xdist.workermanage import NodeManager

        # Workers that are interrupted get so long to stop their clusters.
        NodeManager.EXIT_TIMEOUT = 20
        return
    if _is_worker(config):
        # Below that of the worker, as without any, not of the process that distributes.
        config.option.basetemp = None
    # Short, because unix sockets live below it, and ours alone, so that remains are seen.
    base = Path(tempfile.mkdtemp(prefix="skt-"))
    config.skysail_base = base  # type: ignore[attr-defined]
    os.environ["TMPDIR"] = str(base)
    tempfile.tempdir = None
    # No test may meet the cluster of whoever runs it.
    for name in [name for name in os.environ if name.startswith("SKYSAIL_")]:
        del os.environ[name]
    os.environ["SKYSAIL_TRANSPORT"] = config.getoption("--transport")
    os.environ["XDG_DATA_HOME"] = str(base / "share")
    # Hundreds of processes of ours are started, each of which would compile all of it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def _is_worker(config: pytest.Config) -> bool:
    """Tell whether this process runs some of the tests, and others beside it the rest."""
    return hasattr(config, "workerinput")


def _only_distributes(config: pytest.Config) -> bool:
    return config.getoption("dist", "no") != "no" and not _is_worker(config)


def _has_paths(config: pytest.Config) -> bool:
    return config.args_source is not pytest.Config.ArgsSource.TESTPATHS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    root = config.rootpath / "tests"
    if not _has_paths(config):
        # They need an environment of their own, for which `make formats` names their path.
        items[:] = [item for item in items if not item.path.is_relative_to(root / "formats")]
    for item in items:
        folder = item.path.relative_to(root).parts[0]
        if folder in _MARKED_FOLDERS:
            item.add_marker(folder)
    items[:] = tiers.in_order(items, lambda item: item.nodeid)
    tier = config.getoption("--tier")
    if tier == "rest" and _has_paths(config):
        items.clear()
    elif tier and not _has_paths(config):
        chosen = [
            (item, tiers.is_in_first_tier(item.nodeid) is (tier == "first")) for item in items
        ]
        config.hook.pytest_deselected(items=[item for item, is_chosen in chosen if not is_chosen])
        items[:] = [item for item, is_chosen in chosen if is_chosen]


# After the last fixture.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not _only_distributes(session.config):
        # A worker that has told its end is killed some seconds later.
        kubernetes_clusters.clean_up()
    # All that ARGS name may be in the other tier, but paths are the first tier and must have tests.
    tier = session.config.getoption("--tier")
    may_be_empty = tier == "rest" or (tier == "first" and not _has_paths(session.config))
    if may_be_empty and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A test may have a cluster of six processes: two cores for each test, and never less than two."""
    num_workers = max(2, len(os.sched_getaffinity(0)) // 2)
    if config.getoption("--tier") == "rest" and not kubernetes_clusters.why_no_kubernetes():
        num_workers += tiers.NUM_WAITING
    return num_workers


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """Give each worker a group at a time, in the order of the tiers."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return tiers.group(nodeid)

    if config.getoption("dist") != "load":
        return None
    config.option.loadscopereorder = False
    return ByGroup(config, log)


# Before fixtures, which would meet what is not there.
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kubernetes"):
        reason = kubernetes_clusters.why_no_kubernetes()
        if reason:
            pytest.skip(reason)
        kubernetes_clusters.kubernetes_cluster().begin_test()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    if item.get_closest_marker("kubernetes") and not kubernetes_clusters.why_no_kubernetes():
        kubernetes_clusters.kubernetes_cluster().end_test()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    required = [name for name in item.config.getoption("--require").split(",") if name]
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2])
        if any(name in reason for name in required):
            report.outcome = "failed"
            report.longrepr = f"required, but {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable():
    # What a worker captured goes over a wire that takes no half characters, with which tests work.
    return _whole((yield))


def _whole(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_whole, value))
    return value


@pytest.fixture(scope="session", autouse=True)
def _nothing_survives(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail the run if a process, a socket or a temporary directory of a test outlives it."""
    yield
    base: Path = pytestconfig.skysail_base  # type: ignore[attr-defined]
    survivors = [*psutil.Process().children(recursive=True), *_processes_in(base)]
    described = {process.pid: _described(process) for process in survivors}
    for process in survivors:
        process.kill()
    # pytest keeps its own directories, those of failed tests; all others must be gone.
    remains = [str(path) for path in base.iterdir() if not path.name.startswith("pytest-")]
    sockets = [str(path) for path in base.rglob("*.sock")]
    assert not described, f"processes survived the tests: {described}"
    assert not remains, f"temporary directories survived the tests: {remains}"
    assert not sockets, f"sockets survived the tests: {sockets}"


def pytest_unconfigure(config: pytest.Config) -> None:
    if _only_distributes(config):
        return
    shutil.rmtree(config.skysail_base, ignore_errors=True)  # type: ignore[attr-defined]


def _processes_in(directory: Path) -> list[psutil.Process]:
    """Return the processes that were told to work in a directory, whoever their parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and any(str(directory) in word for word in process.cmdline())
            ) or str(process.cwd()).startswith(str(directory)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _described(process: psutil.Process) -> str:
    try:
        return f"{' '.join(process.cmdline())} ({process.status()})"
    except psutil.Error:
        return "ended"

"""Repeated deploys are idempotent, and failed deploys take nothing away."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail import errors

ROW = np.ones((1, 2))


def first(x):
    return x + 1


def second(x):
    return x + 2


class OnlyOne:
    """A function that works in one process; others fail once `go` exists beside its lock file."""

    def __init__(self, lock: Path) -> None:
        self.lock = str(lock)
        self.home = os.getpid()
        self.is_held = False

    def __call__(self, x):
        if os.getpid() != self.home and not self.is_held:
            try:
                os.close(os.open(self.lock, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                for _ in range(600):
                    if os.path.exists(f"{self.lock}.go"):
                        raise RuntimeError("another holds the lock") from None
                    time.sleep(0.05)
            self.is_held = True
        return x


for each in (first, second, OnlyOne):
    each.__module__ = "__main__"


def answer(client, model: str) -> list[float]:
    return client.predict(model, [1.0, 1.0], timeout_s=5).output.tolist()


def test_deploying_an_unchanged_function_again_changes_nothing(client):
    events = []
    run = {"name": "notebook", "example": ROW, "on_event": events.append}
    assert client.deploy(first, **run).version == "1"
    client.scale("notebook", 2)
    client.tune("notebook", cache_ttl_s=60)
    events.clear()
    again = client.deploy(first, **run)
    assert (again.version, again.num_ready, again.is_current) == ("1", 2, True)
    assert again.deployment.serving.cache_ttl_s == 60
    assert [event.step for event in events] == ["REGISTERED", "DONE"]
    assert {event.version for event in events} == {"1"}

    found = client.deploy(second, **run)
    assert (found.version, found.is_current) == ("2", True)
    assert answer(client, "notebook") == [3, 3]
    events.clear()
    with pytest.warns(skysail.SkysailWarning, match="'skysail promote notebook:1'") as warned:
        old = client.deploy(first, num_replicas=1, **run)
    assert warned[0].filename == __file__
    assert (old.version, old.is_current) == ("1", False)
    notices = [event.message for event in events if event.step == "NOTICE"]
    assert notices[0] == "scaled 2 to 1 because num_replicas=1 was given"
    assert notices[1].startswith("notebook:1 was current before")
    assert answer(client, "notebook") == [3, 3]
    for version in ("1", "2"):
        client.undeploy("notebook", version, force=True)


def test_an_undeployed_version_starts_again_with_its_options(client):
    options = {"num_replicas": 2, "environment": {"LEVEL": "7"}, "max_batch_size": 8}
    client.deploy(first, name="again-up", version="a", example=ROW, **options)
    before = client.describe_version("again-up").deployment
    with pytest.raises(errors.ModelInUse, match="'again-up:a' is the current version"):
        client.undeploy("again-up")
    client.undeploy("again-up", force=True)
    for attempt in (
        lambda: client.promote("again-up", "a"),
        lambda: client.scale("again-up", 1),
        lambda: client.tune("again-up", cache_ttl_s=1),
    ):
        with pytest.raises(errors.SkysailError, match="'skysail start again-up:a'"):
            attempt()
    started = client.start("again-up")
    assert (started.version, started.num_ready, started.is_current) == ("a", 2, True)
    assert started.deployment == before
    assert answer(client, "again-up") == [2, 2]
    client.undeploy("again-up", force=True)


def test_a_failed_replica_does_not_undeploy_a_promoted_version(client, tmp_path):
    lock = tmp_path / "lock"
    client.deploy(first, name="halves-up", version="1", example=ROW)
    is_ready = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(
            client.deploy,
            OnlyOne(lock),
            name="halves-up",
            version="2",
            example=ROW,
            num_replicas=2,
            promote=False,
            on_event=lambda event: is_ready.set() if event.step == "READY" else None,
        )
        assert is_ready.wait(60)
        assert client.promote("halves-up", "2") == "1"
        Path(f"{lock}.go").touch()
        with pytest.raises(errors.DeployFailed) as raised:
            deploying.result(60)
    assert "halves-up:2 stays deployed because it is the current version" in raised.value.message
    found = client.describe_version("halves-up")
    assert (found.version, found.num_ready, found.is_current) == ("2", 1, True)
    assert answer(client, "halves-up") == [1, 1]
    assert client.rollback("halves-up") == "1"
    client.undeploy("halves-up", "2")
    client.undeploy("halves-up", "1", force=True)


def test_each_change_is_a_line_in_the_log_of_management(client, cluster):
    client.deploy(first, name="audited", example=ROW)
    client.scale("audited", 2)
    client.register_application("audited-app", slo_ms=500)
    client.link("audited-app", "audited")
    client.update_application("audited-app", default_output=0)
    assert client.update_application("audited-app", removes_default=True).has_default is False
    client.unregister_application("audited-app")
    client.undeploy("audited", force=True)
    log = (cluster.data_dir / "logs" / "cluster.log").read_text()
    lines = [line for line in log.splitlines() if "audited" in line]
    for event in (
        "version registered version=audited:1",
        "version promoted model=audited current_version='none → 1'",
        "version scaled version=audited:1 num_replicas='1 → 2'",
        "application linked application=audited-app",
        "application changed application=audited-app default_output_json='0 → none'",
        "application unregistered application=audited-app",
        "version undeployed version=audited:1",
    ):
        assert any(event in line for line in lines), event

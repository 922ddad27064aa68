"""Operators, replicas and a slow store in any order: a rollout never removes a serving version.

The real management runs on a store and containers in memory, in virtual time. What must hold is
checked at each commit, by other code than the rules that management itself checks.
"""

import asyncio
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_common.states import ReplicaState
from skysail_common.store import Table
from skysail_common.tensors import InputType
from skysail_management.catalog.applications import ApplicationSpec
from skysail_management.events import DeployStep
from skysail_management.records import AutoscalingRecord, PendingChange, RouteRecord
from skysail_testing.examples import examples
from skysail_testing.management_parts import make_artifact, running_parts
from skysail_testing.virtual_time import VirtualTimeLoop, pass_time, settle

versions = st.sampled_from(["1", "2"])
numbers = st.integers(0, 3)
ENDPOINT = ApplicationSpec("endpoint", 0.5)


class OperatorsAndReplicas(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.stack = AsyncExitStack()
        self.directory = tempfile.TemporaryDirectory()
        self.tasks: list[asyncio.Task[Any]] = []
        self.broken: list[str] = []
        self.run(self.begin())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def begin(self) -> None:
        parts = running_parts(Path(self.directory.name))
        self.parts = await self.stack.enter_async_context(parts)
        self.manager, self.store = self.parts.manager, self.parts.store
        self.manager.becomes_ready = False
        await self.parts.applications.register("app", InputType.DOUBLES, 1.0, None)
        self.commit, self.check = self.parts.records.commit, self.parts.records.check
        self.parts.records.commit = self.watched_commit
        self.parts.records.check = self.watched_check

    @initialize(num_ready=st.integers(0, 2), promote=st.booleans())
    def a_rollout_beside_a_serving_version(self, num_ready, promote):
        self.deploy("1", 2, True, is_registered=False)
        self.ready()
        self.deploy("2", 2, promote, is_registered=False)
        for _ in range(num_ready):
            self.a_replica_is_ready(0)

    def ready(self) -> None:
        for container in self.manager.ids(ReplicaState.STARTING):
            self.manager.set_state(container, ReplicaState.READY)
        self.run(settle())

    def watched_check(self, changes: Sequence[PendingChange], is_forced: bool) -> None:
        try:
            self.check(changes, is_forced)
        except SkysailError as error:
            task = asyncio.current_task()
            if task is not None and task.get_name().startswith("reconciler"):
                # The rules are a net for operators: what management decides by itself fits them.
                self.broken.append(f"the reconciler wants what no rule allows: {error.message}")
            raise

    async def watched_commit(
        self, changes: Sequence[PendingChange], *, is_forced: bool = False, why: str = ""
    ) -> None:
        records, changes = self.parts.records, list(changes)
        before = records.models.get("m")
        current = before.current_version if before else ""
        is_deployed = records.deployments.get(f"m:{current}") is not None
        was_ready = is_deployed and self.num_ready(current) > 0
        # Counted as the commit is made: a replica may die while the store is slow to answer.
        ready = {version for version in "12" if self.num_ready(version) > 0}
        await self.commit(changes, is_forced=is_forced, why=why)
        written = {(change.table, change.name): change.record for change in changes}
        after = written.get((Table.MODELS, "m"), before)
        has_current = after is not None and bool(after.current_version)
        if written.get((Table.APPLICATIONS, ENDPOINT.name)) is not None and not has_current:
            self.broken.append("an endpoint was registered for a model without current version")
        if after is not None and after.current_version not in ("", current, *ready):
            self.broken.append(f"{after.current_version} became current with no ready replica")
        if after is not None and after.current_version not in ("", current):
            deployment = records.deployments.get(f"m:{after.current_version}")
            if deployment is None or deployment.num_replicas == 0:
                self.broken.append(f"{after.current_version} became current as it was stopped")
        if was_ready and not is_forced:
            if after is None or not after.current_version:
                self.broken.append(f"{current} was ready, and the model has no current version")
            elif records.versions.get(f"m:{after.current_version}") is None:
                self.broken.append(f"{after.current_version} is current and not registered")
            elif records.deployments.get(f"m:{after.current_version}") is None:
                self.broken.append(f"{after.current_version} is current and not deployed")

    def num_ready(self, version: str) -> int:
        return self.parts.reconciler.num_ready(ModelVersion("m", version))

    def operate(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run an operation of an operator, which may be rejected."""

        async def done() -> None:
            with suppress(SkysailError):
                await work

        async def begun() -> None:
            self.tasks.append(asyncio.ensure_future(done()))
            await settle()

        self.run(begun())

    def deploy_in_background(self, version: str, sha256: str, **spec: Any) -> None:
        async def follow() -> None:
            with suppress(SkysailError):
                async for event in self.parts.deploying(f"m:{version}", sha256, **spec):
                    last = event
                assert last.step in (DeployStep.DONE, DeployStep.FAILED)

        async def begun() -> None:
            self.tasks.append(asyncio.ensure_future(follow()))
            await settle()

        self.run(begun())

    @rule(
        version=versions,
        num_replicas=st.sampled_from([None, 2, 2, 3]),
        promote=st.sampled_from([None, True, False]),
        is_registered=st.sampled_from([False, False, True]),
        application=st.sampled_from([None, None, ENDPOINT]),
    )
    def deploy(self, version, num_replicas, promote, is_registered, application=None):
        sha256 = "" if is_registered else self.upload(version)
        self.deploy_in_background(
            version, sha256, num_replicas=num_replicas, promote=promote, application=application
        )

    def upload(self, version: str) -> str:
        return self.run(self.parts.upload(make_artifact(version)))

    @precondition(lambda self: self.store.gate is None)
    @rule(version=versions, scaled_to=st.sampled_from([None, 0, 3]))
    def deploy_the_same_again(self, version, scaled_to):
        if scaled_to is not None:
            self.scale(version, scaled_to)
        sha256 = self.upload(version)

        async def again() -> None:
            records = self.parts.records
            before = records.deployments.get(f"m:{version}")
            if before is None or records.lock.locked():
                return
            commits = self.store.num_commits
            events = self.parts.deploying(f"m:{version}", sha256, promote=None)
            await anext(events)
            assert self.store.num_commits == commits
            assert records.deployments.get(f"m:{version}") == before
            await events.aclose()

        self.run(again())

    @rule(version=versions)
    def promote(self, version):
        self.operate(self.parts.models.promote(ModelVersion("m", version)))

    @rule(
        version=versions,
        operation=st.sampled_from(
            ["rollback", "undeploy", "force", "register", "unregister", "route", "unlink", "remove"]
        ),
        number=st.integers(0, 3),
    )
    def change(self, version, operation, number):
        parts, named = self.parts, ModelVersion("m", version)
        routes = [RouteRecord(model="m", version=version if number else "")]
        work = {
            "rollback": lambda: parts.models.rollback("m"),
            "undeploy": lambda: parts.deployments.undeploy("m", version, False),
            "force": lambda: parts.deployments.undeploy("m", version, True),
            "register": lambda: parts.models.register(named, self.upload(version), {}),
            "unregister": lambda: parts.models.unregister_version(named),
            "route": lambda: parts.applications.set_routes("app", routes),
            "unlink": lambda: parts.applications.set_routes("app", []),
            "remove": lambda: parts.applications.unregister(ENDPOINT.name),
        }
        self.operate(work[operation]())

    @rule(version=versions, num_replicas=st.sampled_from([0, 0, 1, 3]))
    def scale(self, version, num_replicas):
        self.operate(self.parts.deployments.scale("m", version, num_replicas))

    def container(self, number: int, *states: ReplicaState) -> str | None:
        found = self.manager.ids(*states)
        return found[number % len(found)] if found else None

    @rule(number=numbers)
    def a_replica_is_ready(self, number):
        container = self.container(number, ReplicaState.STARTING)
        if container is not None:
            self.manager.set_state(container, ReplicaState.READY)
        self.run(settle())

    @rule(
        number=numbers,
        state=st.sampled_from([ReplicaState.STARTING, ReplicaState.STARTING, ReplicaState.READY]),
        end=st.sampled_from(["fails", "fails for good", "vanishes"]),
    )
    def a_replica_ends(self, number, state, end):
        container = self.container(number, state)
        if container is not None and end == "vanishes":
            self.manager.lose(container)
        elif container is not None:
            self.manager.fail(container, is_permanent=end == "fails for good")
        self.run(settle())

    @precondition(lambda self: self.store.gate is None)
    @rule()
    def the_store_is_slow(self):
        async def shut() -> None:
            self.store.gate = asyncio.Event()

        self.run(shut())

    @precondition(lambda self: self.store.gate is not None)
    @rule()
    def the_store_answers(self):
        async def open_() -> None:
            self.store.gate.set()
            self.store.gate = None
            await settle()

        self.run(open_())

    @precondition(lambda self: self.store.gate is None)
    @rule(version=versions, number=numbers)
    def a_replica_is_ready_and_dies_while_a_commit_is_slow(self, version, number):
        self.the_store_is_slow()
        bounds = AutoscalingRecord(min_replicas=1, max_replicas=2 + number)
        self.operate(self.parts.deployments.set_autoscaling("m", version, bounds))
        starting = self.manager.ids(ReplicaState.STARTING)
        self.ready()
        if starting:
            self.manager.fail(starting[number % len(starting)])
        self.run(settle())
        self.the_store_answers()

    @rule(version=versions, force=st.booleans())
    def operators_act_at_the_same_time(self, version, force):
        async def both() -> None:
            parts = self.parts
            operations = [
                parts.deployments.undeploy("m", version, force),
                parts.models.rollback("m"),
                parts.models.promote(ModelVersion("m", version)),
            ]
            await asyncio.gather(*operations, return_exceptions=True)

        self.operate(both())

    @rule(seconds=st.sampled_from([0.5, 2.0, 30.0, 70.0]))
    def time_passes(self, seconds):
        self.run(pass_time(seconds))

    @invariant()
    def nothing_is_broken(self):
        assert self.broken == []

    def teardown(self) -> None:
        try:
            self.run(self.end())
        finally:
            self.run(self.clean_up())
            self.loop.close()
            self.directory.cleanup()

    async def end(self) -> None:
        """Remove all faults, and check that all desired replicas and all events arrive."""
        if self.store.gate is not None:
            self.store.gate.set()
            self.store.gate = None
        self.manager.becomes_ready = True
        await settle()
        for container in self.manager.ids(ReplicaState.STARTING):
            self.manager.set_state(container, ReplicaState.READY)
        # Back-offs and the resync end within this.
        await pass_time(200)
        for deployment in self.parts.records.deployments.all():
            assert self.num_ready(deployment.version) == deployment.num_replicas, deployment
            assert deployment.is_rolled_out
            assert deployment.application is None
        for task in self.tasks:
            assert task.done()
            task.result()
        assert self.broken == []

    async def clean_up(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.stack.aclose()


TestOperatorsAndReplicas = OperatorsAndReplicas.TestCase
TestOperatorsAndReplicas.settings = settings(max_examples=examples(150), stateful_step_count=30)

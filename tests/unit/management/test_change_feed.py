import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.containers.change_feed import ChangeFeed, retry_until_done
from skysail_testing.examples import examples
from skysail_testing.virtual_time import now, settle, virtual_time

STATES = (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.STOPPED)


def box(name: str, state: ReplicaState = ReplicaState.READY) -> Container:
    return Container(name, ReplicaId(ModelVersion("m", "1"), 0), state)


@virtual_time
async def test_changes_before_the_first_step_are_not_lost():
    changes = ChangeFeed()
    changes.publish(box("a"))
    changes.publish(box("b"))
    async with aclosing(changes.watch()) as watching:
        assert [(await anext(watching)).container_id for _ in range(2)] == ["a", "b"]


@virtual_time
async def test_watch_waits_for_a_change():
    changes = ChangeFeed()
    async with aclosing(changes.watch()) as watching:
        for name in ("a", "b"):
            waiting = asyncio.ensure_future(anext(watching))
            await settle()
            assert not waiting.done()
            changes.publish(box(name))
            assert (await waiting).container_id == name


@virtual_time
async def test_slow_watcher_gets_last_states_in_order():
    changes = ChangeFeed()
    changes.publish(box("a", ReplicaState.STARTING))
    changes.publish(box("b"))
    changes.publish(box("a"))
    async with aclosing(changes.watch()) as watching:
        seen = [await anext(watching) for _ in range(2)]
    assert [(each.container_id, each.state) for each in seen] == [
        ("b", ReplicaState.READY),
        ("a", ReplicaState.READY),
    ]


@settings(max_examples=examples(50))
@given(
    st.lists(
        st.one_of(st.just("take"), st.tuples(st.sampled_from("abc"), st.sampled_from(STATES))),
        max_size=30,
    )
)
def test_last_seen_state_of_each_container_is_its_last_state(steps):
    @virtual_time
    async def run() -> None:
        changes = ChangeFeed()
        last: dict[str, ReplicaState] = {}
        seen: dict[str, ReplicaState] = {}
        waiting: set[str] = set()
        async with aclosing(changes.watch()) as watching:

            async def take() -> None:
                change = await anext(watching)
                seen[change.container_id] = change.state
                waiting.discard(change.container_id)

            for step in steps:
                if step == "take":
                    if waiting:
                        await take()
                else:
                    name, state = step
                    changes.publish(box(name, state))
                    last[name] = state
                    waiting.add(name)
            while waiting:
                await take()
        assert seen == last

    run()


@virtual_time
async def test_watch_delivers_pending_changes_before_the_failure():
    changes = ChangeFeed()
    async with aclosing(changes.watch()) as watching:
        waiting = asyncio.ensure_future(anext(watching))
        await settle()
        changes.fail(KeyError("a bug"))
        changes.publish(box("a"))
        changes.fail(ValueError("a consequence"))
        assert (await waiting).container_id == "a"
        with pytest.raises(SkysailError, match="watch of the container manager ended") as caught:
            await anext(watching)
        assert isinstance(caught.value.__cause__, KeyError)


@virtual_time
async def test_container_work_is_retried_until_done(caplog):
    errors: list[Exception] = [KeyError("a bug"), OSError("disk full")]

    async def work() -> None:
        if errors:
            raise errors.pop(0)

    await retry_until_done(work, "exit of c1")
    assert now() > 1000.2
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


@virtual_time
async def test_container_work_can_be_cancelled():
    working = asyncio.ensure_future(retry_until_done(asyncio.Event().wait, "exit of c1"))
    await settle()
    working.cancel()
    await asyncio.wait({working})
    assert working.cancelled()

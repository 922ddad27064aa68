import asyncio

import pytest

from skysail_common.identifiers import ModelVersion
from skysail_management.events import DeployEvent, DeployEvents, DeployStep
from skysail_protos.v1 import management_pb2
from skysail_testing.virtual_time import settle, virtual_time

M1 = ModelVersion("m", "1")


def event(message: str, step: DeployStep = DeployStep.PREPARING) -> DeployEvent:
    return DeployEvent(step, message)


@virtual_time
async def test_events_arrive_in_order_after_the_subscription():
    events = DeployEvents()
    events.publish(M1, event("too early"))
    with events.subscribe(M1) as subscription:
        for number in range(3):
            events.publish(M1, event(str(number)))
        assert [(await subscription.next()).message for _ in range(3)] == ["0", "1", "2"]


@virtual_time
async def test_each_subscriber_gets_the_events_of_its_version_only():
    events = DeployEvents()
    with events.subscribe(M1) as one, events.subscribe(M1) as two:
        events.publish(ModelVersion("m", "2"), event("of another"))
        events.publish(M1, event("hello"))
        assert (await one.next()).message == (await two.next()).message == "hello"


@virtual_time
async def test_next_waits_for_an_event():
    events = DeployEvents()
    with events.subscribe(M1) as subscription:
        waiting = asyncio.create_task(subscription.next())
        await settle()
        assert not waiting.done()
        events.publish(M1, event("hello"))
        assert (await waiting).message == "hello"


@virtual_time
async def test_slow_subscriber_loses_the_oldest_events():
    events = DeployEvents()
    with events.subscribe(M1) as subscription:
        for number in range(1500):
            events.publish(M1, event(str(number)))
        events.publish(M1, event("done", DeployStep.DONE))
        taken = [await subscription.next() for _ in range(1000)]
    assert taken[0].message == "501"
    assert taken[-1].step is DeployStep.DONE


@virtual_time
async def test_ended_subscription_is_removed():
    events = DeployEvents()
    with events.subscribe(M1) as subscription:
        pass
    events.publish(M1, event("late"))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(subscription.next(), 1)


def test_steps_match_the_protocol():
    for step in DeployStep:
        assert management_pb2.DeployStep.Name(step) == f"DEPLOY_STEP_{step.name}"
    assert [step for step in DeployStep if step.is_last] == [DeployStep.DONE, DeployStep.FAILED]

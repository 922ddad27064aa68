from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.clock import NEVER
from skysail_common.identifiers import ModelVersion
from skysail_management.reconciler.start_slots import HOLD_S, StartSlots
from skysail_testing.clock import FakeClock
from skysail_testing.examples import examples

A, B, C = (ModelVersion(name, "1") for name in "abc")


def never_woken() -> None:
    raise AssertionError("it was not its turn")


def test_slots_bound_concurrent_starts(clock: FakeClock):
    slots = StartSlots(2, clock)
    assert slots.take(A, 0, never_woken)
    assert slots.take(A, 1, never_woken)
    assert not slots.take(A, 2, never_woken)
    assert slots.num_held == 2


def test_freed_slot_wakes_the_next_in_turn(clock: FakeClock):
    slots = StartSlots(1, clock)
    woken: list[str] = []
    assert slots.take(A, 0, never_woken)
    assert not slots.take(B, 0, lambda: woken.append("b"))
    assert not slots.take(C, 0, lambda: woken.append("c"))
    slots.keep(A, ())
    assert woken == ["b"]
    # Version c keeps its place in the queue.
    assert not slots.take(C, 0, never_woken)
    assert not slots.take(A, 0, never_woken)
    assert slots.take(B, 0, never_woken)


def test_versions_take_turns_with_any_number_of_replicas(clock: FakeClock):
    slots = StartSlots(1, clock)
    order: list[str] = []
    left = {A: 100, B: 2, C: 1}
    holder: tuple[ModelVersion, int] | None = None
    while any(left.values()):
        if holder is not None:
            slots.keep(holder[0], ())
        for version in left:
            if left[version] and slots.take(version, left[version], lambda: None):
                left[version] -= 1
                order.append(version.model_name)
                holder = (version, left[version])
    assert order[:6] == ["a", "b", "c", "a", "b", "a"]


def test_leaving_version_passes_its_turn(clock: FakeClock):
    slots = StartSlots(1, clock)
    woken: list[str] = []
    assert slots.take(A, 0, never_woken)
    assert not slots.take(B, 0, lambda: woken.append("b"))
    assert not slots.take(C, 0, lambda: woken.append("c"))
    slots.keep(A, ())
    slots.leave(B)
    assert woken == ["b", "c"]
    assert slots.take(C, 0, never_woken)


def test_hanging_start_blocks_others_for_a_bounded_time(clock: FakeClock):
    slots = StartSlots(1, clock)
    assert slots.free_at == NEVER
    assert slots.take(A, 0, never_woken)
    assert not slots.take(B, 0, never_woken)
    assert slots.free_at == clock() + HOLD_S
    clock.advance(HOLD_S)
    assert slots.num_held == 0
    assert slots.take(B, 0, never_woken)
    # The start no longer counts, although it continues.
    slots.keep(A, {0})
    assert slots.num_held == 1
    assert not slots.take(C, 0, never_woken)


def test_earlier_starts_count(clock: FakeClock):
    slots = StartSlots(2, clock)
    slots.keep(A, {0, 1, 2})
    assert slots.num_held == 3
    assert not slots.take(B, 0, never_woken)


@settings(max_examples=examples(50))
@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.booleans()), max_size=60))
def test_bound_holds_and_no_turn_is_lost(steps):
    slots, held = StartSlots(2, FakeClock()), Counter()
    asleep, woken = set(), set()

    def wake(version: ModelVersion) -> None:
        asleep.discard(version)
        woken.add(version)

    def ask(version: ModelVersion, index: int) -> None:
        woken.discard(version)
        if slots.take(version, index, lambda: wake(version)):
            held[version] += 1
            asleep.discard(version)
        else:
            asleep.add(version)

    for index, (version, takes) in enumerate(steps):
        if takes:
            ask(version, index)
        else:
            slots.keep(version, ())
            held[version] = 0
        assert slots.num_held == held.total() <= 2
        # A version sleeps only while slots are taken, or another that was woken has not asked yet.
        assert not asleep or held.total() > 0 or woken
    while woken:
        ask(min(woken), len(steps))
    assert not asleep or held.total() > 0

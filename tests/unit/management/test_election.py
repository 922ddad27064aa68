import pytest

from skysail_management.leadership.election import Election, LeaseTimes

DURATION_S = 15


def election(clock, identity="a", duration_s=DURATION_S):
    return Election(identity, duration_s, clock)


def lease(holder, renewed="2026-11-28T12:00:00.000000Z", **spec):
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed, **spec}
    return {"metadata": {"resourceVersion": "1"}, "spec": spec}


def test_default_times_equal_those_of_client_go():
    times = LeaseTimes(15)
    assert (times.duration_s, times.renew_deadline_s, times.renew_every_s) == (15, 10, 2)
    # Two attempts fit before the deadline even if the first one hangs.
    assert times.renew_every_s + 2 * times.attempt_s > times.renew_deadline_s > times.attempt_s
    assert times.renew_every_s + times.attempt_s + times.renew_every_s < times.renew_deadline_s


@pytest.mark.parametrize("found", [{}, {"spec": {}}, {"spec": None}, lease(""), lease(None)])
def test_free_lease_is_taken_at_once(clock, found):
    candidate = election(clock)
    candidate.observe(found)
    assert candidate.holder == ""
    assert candidate.may_take()


def test_own_lease_is_taken_at_once(clock):
    # A restarted container of the pod does the same.
    candidate = election(clock)
    candidate.observe(lease("a"))
    assert candidate.is_ours
    assert candidate.may_take()


def test_foreign_lease_is_taken_after_its_duration_without_a_change(clock):
    candidate = election(clock)
    candidate.observe(lease("b"))
    for _ in range(DURATION_S):
        assert not candidate.may_take()
        clock.advance(1)
        candidate.observe(lease("b"))
    assert candidate.may_take()


def test_each_change_restarts_the_duration(clock):
    candidate = election(clock)
    candidate.observe(lease("b"))
    clock.advance(14.9)
    candidate.observe(lease("b", "2026-11-28T12:00:02.000000Z"))
    clock.advance(14.9)
    candidate.observe(lease("b", "2026-11-28T12:00:02.000000Z"))
    assert not candidate.may_take()
    clock.advance(0.2)
    assert candidate.may_take()


@pytest.mark.parametrize("renewed", ["1999-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"])
def test_the_clock_of_the_holder_does_not_matter(clock, renewed):
    candidate = election(clock)
    candidate.observe(lease("b", renewed))
    clock.advance(14.9)
    assert not candidate.may_take()
    clock.advance(0.2)
    assert candidate.may_take()


def test_duration_of_the_holder_counts(clock):
    candidate = election(clock, duration_s=3)
    candidate.observe(lease("b"))
    clock.advance(14)
    assert not candidate.may_take()


def test_change_outside_the_spec_does_not_extend_the_lease(clock):
    candidate = election(clock)
    candidate.observe(lease("b"))
    clock.advance(10)
    labelled = lease("b")
    labelled["metadata"] = {"resourceVersion": "2", "labels": {"x": "y"}}
    candidate.observe(labelled)
    clock.advance(5)
    assert candidate.may_take()


def test_claim_counts_the_transition_and_keeps_other_fields(clock):
    candidate = election(clock)
    candidate.observe(lease("b", leaseTransitions=4, strategy="x", acquireTime="then"))
    claim = candidate.claim()
    assert claim["holderIdentity"] == "a"
    assert claim["leaseDurationSeconds"] == DURATION_S
    assert claim["leaseTransitions"] == 5
    assert claim["strategy"] == "x"
    assert claim["acquireTime"] == claim["renewTime"]
    candidate.observe({"spec": claim})
    again = candidate.claim()
    assert (again["leaseTransitions"], again["acquireTime"]) == (5, claim["acquireTime"])
    assert again["renewTime"] > claim["renewTime"]


def test_a_released_lease_may_be_taken_at_once(clock):
    candidate, other = election(clock), election(clock, "b")
    candidate.observe(lease("a", leaseTransitions=4))
    other.observe({"spec": candidate.release_spec()})
    assert other.may_take()
    assert other.claim()["leaseTransitions"] == 5

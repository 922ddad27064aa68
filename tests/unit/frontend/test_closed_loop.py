from skysail_frontend.core.batching.closed_loop import ClosedLoop

LATENCY_S = 0.02


def learned(share_of_8: int, took_s: float, rounds: int = 20) -> ClosedLoop:
    """Return a loop that saw a share of 8 rows return after a time; the last result is at 0."""
    closed_loop = ClosedLoop()
    for index in range(rounds, 0, -1):
        closed_loop.observe_result(8, LATENCY_S, -float(index))
        for _ in range(share_of_8):
            closed_loop.observe_arrival(1, -index + took_s)
    closed_loop.observe_result(8, LATENCY_S, 0.0)
    return closed_loop


def test_no_returns_are_expected_before_the_first_result():
    assert ClosedLoop().expected_returns(0.0) == (0.0, 0.0)


def test_regular_returns_are_expected_for_slightly_longer_than_usual():
    rows, until = learned(8, 0.004).expected_returns(0.0)
    assert 7.5 < rows <= 8
    assert 0.004 < until < 0.006


def test_partial_returns_are_expected_in_part():
    rows, _ = learned(4, 0.004).expected_returns(0.0)
    assert 3.5 < rows <= 4


def test_arrivals_before_the_result_are_no_returns():
    closed_loop = learned(8, 0.004)
    closed_loop.observe_arrival(8, -0.001)
    assert closed_loop.expected_returns(0.001)[0] > 7.5


def test_rows_that_have_returned_are_not_expected():
    closed_loop = learned(8, 0.004)
    closed_loop.observe_arrival(6, 0.001)
    rows, until = closed_loop.expected_returns(0.001)
    assert 1.5 < rows <= 2
    assert until > 0.004
    closed_loop.observe_arrival(2, 0.002)
    assert closed_loop.expected_returns(0.002)[0] == 0.0


def test_no_returns_are_expected_after_their_usual_time():
    assert learned(8, 0.004).expected_returns(0.01) == (0.0, 0.01)


def test_late_arrivals_are_no_returns():
    closed_loop = learned(8, 0.9 * LATENCY_S)
    assert closed_loop.expected_returns(0.0) == (0.0, 0.0)


def test_returns_are_forgotten_when_callers_stop():
    closed_loop = learned(8, 0.004)
    for index in range(1, 20):
        closed_loop.observe_result(8, LATENCY_S, float(index))
    assert closed_loop.expected_returns(19.0)[0] < 0.2
